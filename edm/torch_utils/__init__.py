"""What training and evaluation stand on: snapshots, processes, seeding, files, command lines."""
