"""What is measured of samples: RP, GL, MAE and further scores, with their controls."""
