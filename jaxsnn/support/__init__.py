"""What every part of the library needs: arrays, random bits, digests, types, files, progress."""
