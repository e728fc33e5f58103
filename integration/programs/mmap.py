"""Mapped files. Arguments: write|check, folder."""

import mmap
import multiprocessing
import os
import struct
import sys

PROCESSES = 4
RECORDS = 4000
STRIDE = 64


def many_writers(path, number):
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        for n in range(RECORDS):
            at = (n * PROCESSES + number) * STRIDE
            view[at : at + 8] = struct.pack("<II", number, n)
        view.flush()


def check_records(path):
    with open(path, "rb") as file:
        content = file.read()
    for n in range(RECORDS):
        for number in range(PROCESSES):
            at = (n * PROCESSES + number) * STRIDE
            assert struct.unpack("<II", content[at : at + 8]) == (number, n), (number, n)


def write(folder):
    path = os.path.join(folder, "records")
    with open(path, "wb") as file:
        file.truncate(PROCESSES * RECORDS * STRIDE)
    # All processes write to the same pages.
    processes = [multiprocessing.Process(target=many_writers, args=(path, i)) for i in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert not any(process.exitcode for process in processes), "a writer failed"
    check_records(path)

    # What write(2) wrote shows in a mapping, and what a mapping wrote shows in read(2).
    path = os.path.join(folder, "coherent")
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fd, b"a" * 10000)
    with mmap.mmap(fd, 10000) as view:
        os.pwrite(fd, b"written", 5000)
        assert view[5000:5007] == b"written"
        view[7000:7006] = b"mapped"
        assert os.pread(fd, 6, 7000) == b"mapped"
        os.pwrite(fd, b"again", 7001)
        assert view[7000:7006] == b"magain"
        # Another descriptor, and after an msync another process, see it too.
        view.flush()
        with open(path, "rb") as other:
            assert other.read()[7000:7006] == b"magain"
        # Truncation shows as zeros once the file grows again.
        os.ftruncate(fd, 6000)
        os.ftruncate(fd, 10000)
        assert view[6000:10000] == bytes(4000)
        assert view[5999:6000] == b"a"

    # A private mapping changes nothing.
    with mmap.mmap(fd, 10000, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as view:
        view[0:5] = b"local"
    assert os.pread(fd, 5, 0) == b"aaaaa"

    # A mapping outlives its descriptor and its name.
    path = os.path.join(folder, "gone")
    with open(path, "w+b") as file:
        file.write(b"b" * 5000)
        file.flush()
        view = mmap.mmap(file.fileno(), 5000)
    os.unlink(path)
    assert view[4999:5000] == b"b"
    view[4000:4004] = b"late"
    view.flush()
    assert view[4000:4004] == b"late"
    view.close()

    # A program can be run from here.
    path = os.path.join(folder, "program")
    with open("/bin/true", "rb") as source, open(path, "wb") as target:
        target.write(source.read())
    os.chmod(path, 0o755)
    assert os.spawnv(os.P_WAIT, path, [path]) == 0


def check(folder):
    check_records(os.path.join(folder, "records"))
    with open(os.path.join(folder, "coherent"), "rb") as file:
        content = file.read()
    assert content == b"a" * 5000 + b"written" + b"a" * 993 + bytes(4000), content[4990:6010]


if __name__ == "__main__":
    (write if sys.argv[1] == "write" else check)(sys.argv[2])
