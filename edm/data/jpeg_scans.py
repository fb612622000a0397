"""Decoding a JPEG so that damage among its pixels shows: libjpeg merely counts it, and PIL drops the count.

A scan is a string of Huffman codes up to a marker, with restart markers in between if the encoder put any.
Its length is not written down: the decoder stops with the last block. Codes that were changed or lost mostly
make it stop elsewhere. To see where, the bytes around each marker are handed to it in pieces.
"""

import re

from PIL import Image, ImageFile

_MARKER = re.compile(rb'\xff([^\x00\xff])')
_EOI, _SOS, _RESTARTS, _BARE = 0xD9, 0xDA, range(0xD0, 0xD8), 0x01
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_HUFFMAN = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive; in others libjpeg can't wait for more
_MAX_SCANS = 100  # far more than encoders make; each is a walk through all blocks
_READ_AHEAD = bytes(7)  # where libjpeg needs one bit, it waits for 57
_TOO_FEW, _TOO_MANY = (f'it is damaged: {what}' for what in ('data are missing inside', 'data are left over'))


def load_jpeg(image: ImageFile.ImageFile, data: bytes) -> None:
    """Decode the pixels of `image`, as PIL opened it from `data`: its load(), but for what it raises.

    Raises ValueError if the file is cut short, or a scan's data are more than its blocks need, or less.
    Damage that leaves the length of a scan as it was can't be seen; nor can some that alters it by less than
    8 bytes. What follows the end marker, such as a phone's video, is left alone.
    """
    frame, pieces, end = _parse(data)
    if frame not in _HUFFMAN:
        image.load()
        return
    image.load_prepare()
    ((_, extents, _, args),) = image.tile
    decoder = _Decoder(Image.core.jpeg_decoder(image.mode, *args, *image.decoderconfig))
    try:
        decoder.codec.setimage(image.im, extents)
        fed = 0
        for start, stop in pieces:
            _feed_piece(decoder, data, fed, start, stop)
            fed = stop
        if not decoder.feed(data[fed:end]):
            raise ValueError(_TOO_FEW)
    finally:
        decoder.codec.cleanup()
    image.tile = []
    image.load_end()


def _feed_piece(decoder: '_Decoder', data: bytes, fed: int, start: int, stop: int) -> None:
    """Feed data[fed:stop], where the codes from `start` on must end in the last byte that is no filling."""
    if decoder.has_all and start < stop:
        raise ValueError(_TOO_MANY)
    last = stop
    while last > start and data[last - 1] in (0, 0xFF):
        last -= 1
    last = max(start, last - 1)
    early = max(start, last - 1)
    if decoder.feed(data[fed:early]) or (early < last and decoder.skips(data[early:last])):
        raise ValueError(_TOO_MANY)
    if not decoder.feed(data[last:stop] + _READ_AHEAD) and not decoder.skips(b'\0'):
        raise ValueError(_TOO_FEW)


class _Decoder:
    """PIL's decoder, which takes as much of the data as it can use, and keeps the rest waiting."""

    def __init__(self, codec):
        self.codec, self.has_all, self._rest = codec, False, b''

    def feed(self, piece: bytes) -> bool:
        """Whether all pixels are there now."""
        if not self.has_all:
            self._rest += piece
            used, error = self.codec.decode(self._rest)
            if error < 0:
                raise ValueError('broken data stream')
            self.has_all, self._rest = used < 0, self._rest[max(used, 0):]
        return self.has_all

    def skips(self, byte: bytes) -> bool:
        """Whether the blocks of a piece are done: looking for a marker, the decoder takes any byte."""
        waited = not self._rest
        return self.feed(byte) or (waited and not self._rest)


def _parse(data: bytes) -> tuple[int, list[tuple[int, int]], int]:
    """The kind of frame; [start, stop) of the codes between markers in all scans; where the image ends."""
    frame, pieces, scans, place = 0, [], 0, 2
    while marker := _MARKER.search(data, place):
        kind, place = marker[1][0], marker.end()
        if kind == _EOI:
            return frame, pieces, place
        if kind in _RESTARTS or kind == _BARE:
            continue
        frame = kind if kind in _FRAMES else frame
        place += int.from_bytes(data[place:place + 2])
        if kind == _SOS:
            scans += 1
            place = _parse_scan(data, place, pieces)
            if scans > _MAX_SCANS:
                raise ValueError(f'it has more than {_MAX_SCANS} scans')
    raise ValueError('it is cut short')


def _parse_scan(data: bytes, start: int, pieces: list[tuple[int, int]]) -> int:
    """Append the pieces of a scan that begins at `start`; returns where the marker behind it is."""
    for number, marker in enumerate(_MARKER.finditer(data, start)):
        pieces.append((start, marker.start()))
        if marker[1][0] not in _RESTARTS:
            return marker.start()
        if marker[1][0] != _RESTARTS[number % 8]:
            raise ValueError('it is damaged: a restart marker is missing')
        start = marker.end()
    raise ValueError('it is cut short')
