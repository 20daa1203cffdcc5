"""The user's own files, as arrays: .npz, .csv and IDX. Nothing is ever unpickled."""

from __future__ import annotations

import csv
import gzip
import io
import math
import struct
import zipfile
import zlib
from array import array
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt


def read(file: Path, labels: Path | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, ...) and labels (n,) as they stand in a file; errors begin with its path (see ``data.load``)."""
    lower = file.name.lower()
    is_idx = lower.endswith(("-ubyte", "-ubyte.gz"))
    with naming(file):
        content = _read(file)
        if labels is not None and not is_idx:
            raise ValueError(f"labels: expected None, as only IDX files keep labels apart, got '{labels}'")
        if lower.endswith(".npz"):
            return _npz(content)
        if lower.endswith(".csv"):
            return _csv(content)
        if not is_idx:
            raise ValueError("expected a file named .npz, .csv, -ubyte or -ubyte.gz")
        images = _idx(content, dims=3)
        beside = file.with_name(file.name.replace("images", "labels").replace("idx3", "idx1"))
        labels_file = beside if labels is None else labels
        if labels_file == file:
            raise ValueError("expected 'images' in the file's name, or the labels file as the argument labels")
    with naming(labels_file):
        y = _idx(_read(labels_file), dims=1)
    return images.reshape(len(images), -1) / np.float32(255), y


@contextmanager
def naming(path: Path) -> Generator[None]:
    """Turn what goes wrong with a file into one line that begins with its path."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def _read(path: Path) -> bytes:
    content = path.read_bytes()
    if not content:
        raise ValueError("the file is empty")
    if path.suffix.lower() != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"truncated or damaged gzip data ({error})") from None


def _npz(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError("not a .npz archive, or a truncated one")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("x", "y") if key in archive}
            found = ", ".join(archive) or "none"
    except Exception as error:  # damaged headers raise nearly anything: from zipfile, zlib, tokenize, the allocator
        raise ValueError(f"damaged, or holds Python objects, which are never unpickled ({error})") from None
    if len(arrays) < 2:
        raise ValueError(f"expected arrays named x and y, got {found}")
    return arrays["x"], arrays["y"]


def _csv(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    rows = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
    values, labels, columns = array("d"), [], 0
    for row in rows:
        if not row:
            continue
        if columns == 0:
            columns = len(row)
            if columns < 2:
                raise ValueError(f"line {rows.line_num}: expected features and a label, with commas, got one column")
            if not any(map(_is_number, row)):
                continue
        if len(row) != columns:
            raise ValueError(f"line {rows.line_num}: expected {columns} columns, got {len(row)}")
        try:
            values.extend(map(float, row[:-1]))
            labels.append(int(row[-1]))
        except ValueError:
            bad = next((j for j, cell in enumerate(row[:-1]) if not _is_number(cell)), columns - 1)
            wanted = "a number" if bad < columns - 1 else "an integer label"
            place = f"line {rows.line_num}, column {bad + 1}"
            raise ValueError(f"{place}: expected {wanted}, got {row[bad][:40]!r}") from None
    if not labels:
        raise ValueError("no line of data")
    return np.asarray(values).reshape(len(labels), columns - 1), np.array(labels)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _idx(content: bytes, dims: int) -> npt.NDArray[np.uint8]:
    """The IDX format: magic 0x000008dd (bytes in dd dimensions), the sizes as big-endian uint32, the bytes."""
    start = 4 + 4 * dims
    magic = int.from_bytes(content[:4], "big")
    if len(content) >= 4 and magic != 0x800 + dims:
        raise ValueError(f"expected the IDX magic number 0x{0x800 + dims:08x}, got 0x{magic:08x}")
    if len(content) < start:
        raise ValueError(f"truncated: expected a header of {start} bytes, got {len(content)}")
    sizes = struct.unpack(f">{dims}I", content[4:start])
    if len(content) - start != math.prod(sizes):
        raise ValueError(f"expected {math.prod(sizes)} bytes of data for sizes {sizes}, got {len(content) - start}")
    if 0 in sizes:
        raise ValueError(f"expected at least one example, got sizes {sizes}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)
