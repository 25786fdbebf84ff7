"""Files that end with their checksum, and what a netCDF file may hold before it is read."""

from __future__ import annotations

import hashlib
import re
import zlib
from io import BufferedIOBase
from math import prod
from os import SEEK_END
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import h5py

_LINE = "\nsha256 of all bytes before this line: {}\n"
_LENGTH = len(_LINE.format("0" * 64))
_AT_ONCE = 1 << 20
# What a file may hold in memory beyond its own size.
_LEAST, _TIMES, _MOST = 1 << 26, 100, 1 << 30
_MOST_STRINGS = 1 << 16
# Numbers of HDF5: shuffled bytes and Fletcher's checksum take no more memory than what they are of.
_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3
_FILTERS = {_DEFLATE, _SHUFFLE, _FLETCHER}


def write_with_checksum(
    file: BinaryIO | BufferedIOBase, content: bytes | memoryview, context: str = ""
) -> None:
    """Write bytes, and a last line with the SHA-256 of a context and of these bytes.

    HDF5 and zip files may have bytes after their end, so that others read them as before.

    Example:
        >>> from io import BytesIO
        >>> from jaxsnn.sweeps.files import verify_checksum, write_with_checksum
        >>> file = BytesIO()
        >>> write_with_checksum(file, b"all of it", "block 1")
        >>> verify_checksum(file, "block 1")
        >>> verify_checksum(file, "block 2")
        Traceback (most recent call last):
        ...
        ValueError: its checksum is wrong
    """
    found = hashlib.sha256(context.encode())
    found.update(content)
    file.write(content)
    file.write(_LINE.format(found.hexdigest()).encode())


def verify_checksum(file: BinaryIO | BufferedIOBase, context: str = "") -> None:
    """Raise ValueError unless a file ends with the checksum of this context and of its bytes.

    The file is then at its start.
    """
    length = file.seek(0, SEEK_END) - _LENGTH
    file.seek(max(length, 0))
    last = file.read(_LENGTH).decode("ascii", errors="replace")
    if length < 0 or not re.fullmatch(_LINE.format("[0-9a-f]{64}"), last):
        raise ValueError("it has no checksum at its end")
    file.seek(0)
    found = hashlib.sha256(context.encode())
    while part := file.read(min(_AT_ONCE, length - file.tell())):
        found.update(part)
    if last != _LINE.format(found.hexdigest()):
        raise ValueError("its checksum is wrong")
    file.seek(0)


def check_contents(file: h5py.File, size: int) -> None:
    """Raise ValueError where reading all of an HDF5 file would reach beyond what a sweep writes.

    A file may be small and ask for all memory, or name other files, whose contents a reader would
    then take for those of this one. Nothing is allocated for the data themselves.

    Args:
        file: the open file.
        size: its size in bytes.

    Raises:
        ValueError: links, groups, data in other files, compression other than zlib, or more data
            than a file of this size may hold.
    """
    import h5py

    allowed = size + min(_MOST, max(_LEAST, _TIMES * size))
    needed = 0
    _check_attributes(file)
    for name in file:
        link = file.get(name, getlink=True)
        item = file[name] if isinstance(link, h5py.HardLink) else link
        if not isinstance(item, h5py.Dataset):
            raise ValueError(f"{name!r} is no variable but a {type(item).__name__}")
        if item.is_virtual or item.external:
            raise ValueError(f"the values of {name!r} lie in other files")
        _check_attributes(item)
        needed += item.nbytes + prod(item.chunks or (0,)) * item.dtype.itemsize
        if needed <= allowed:  # only then may strings be read
            needed += _bytes_of_strings(item, allowed)
        if needed > allowed:
            raise ValueError(
                f"its variables take {needed:,} bytes or more, but a file of {size:,} bytes may "
                f"hold {allowed:,}"
            )
        _check_compression(item, size)


def _check_attributes(item: h5py.File | h5py.Dataset) -> None:
    """Raise ValueError where attributes are more than numbers, texts and those of dimensions."""
    import h5py

    for name in item.attrs:
        attribute = item.attrs.get_id(name)
        kinds = attribute.dtype.fields or {"": (attribute.dtype,)}
        for dtype, *_ in kinds.values():
            texts = h5py.check_string_dtype(dtype) is not None and dtype.kind != "S"
            dtype = dtype if texts else h5py.check_vlen_dtype(dtype) or dtype
            plain = dtype.kind in "biufS" or h5py.check_ref_dtype(dtype) is not None
            # Many texts of variable length may be one long text of the file again and again.
            if not (plain or texts) or (texts and prod(attribute.shape or ()) > _TIMES):
                raise ValueError(f"its attribute {name!r} is no number and no text")


def _bytes_of_strings(item: h5py.Dataset, allowed: int) -> int:
    """The bytes of all texts of variable length, which a file may hold once and use often."""
    import h5py

    if item.dtype.kind in "biufS":
        return 0
    if h5py.check_string_dtype(item.dtype) is None:
        raise ValueError(f"{item.name!r} holds neither numbers nor texts")
    count = prod(item.shape)
    if count > _MOST_STRINGS:
        raise ValueError(f"{item.name!r} holds {count:,} texts; the limit is {_MOST_STRINGS:,}")
    total = 0
    for place in np.ndindex(item.shape):
        total += len(item[place])
        if total > allowed:
            break
    return total


def _check_compression(item: h5py.Dataset, size: int) -> None:
    """Raise ValueError where a chunk would not inflate to its own size: HDF5 does not look."""
    properties = item.id.get_create_plist()
    filters = [properties.get_filter(place)[0] for place in range(properties.get_nfilters())]
    if not _FILTERS.issuperset(filters) or len(set(filters)) < len(filters):
        raise ValueError(f"{item.name!r} is compressed in a way that sweeps are not")
    if _DEFLATE not in filters:
        return
    skipped = 1 << filters.index(_DEFLATE)
    most = prod(item.chunks or ()) * item.dtype.itemsize + 4  # and a checksum
    chunks: list[Any] = []
    item.id.chunk_iter(chunks.append)
    for chunk in chunks:
        if chunk.filter_mask & skipped:
            continue
        fits = chunk.size <= size
        if fits:
            _, compressed = item.id.read_direct_chunk(chunk.chunk_offset)
            fits = len(zlib.decompressobj().decompress(compressed, most + 1)) <= most
        if not fits:
            raise ValueError(f"a chunk of {item.name!r} inflates to more than its size")
