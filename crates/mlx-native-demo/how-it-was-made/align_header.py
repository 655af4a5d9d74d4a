"""Pads the header of a safetensors file with spaces (the format allows it) so that the tensor data begins at a multiple
of 64 bytes and tensors can be used where they lie. Run last: align_header.py FILE. Tensor bytes are not touched."""
import struct
import sys

path = sys.argv[1]
data = open(path, "rb").read()
(length,) = struct.unpack("<Q", data[:8])
header = data[8 : 8 + length].rstrip(b" ")
header += b" " * (-(8 + len(header)) % 64)
open(path, "wb").write(struct.pack("<Q", len(header)) + header + data[8 + length :])
