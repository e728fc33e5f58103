"""Locks of files in a zone, from programs on several nodes. First argument: what to do."""

import errno
import fcntl
import multiprocessing
import os
import signal
import sqlite3
import struct
import sys
import time

F_OFD_SETLK, F_OFD_SETLKW = 37, 38
PATIENCE = 60


def opened(path):
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def flock_struct(kind, start, length):
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def fails(numbers, call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno in numbers, error
        return True
    return False


def is_locked(path, start=0, length=0, kind=fcntl.LOCK_EX):
    """Whether a program on this path's node is refused."""
    fd = opened(path)
    try:
        return fails((errno.EAGAIN, errno.EACCES), fcntl.lockf, fd, kind | fcntl.LOCK_NB, length, start)
    finally:
        os.close(fd)


def blocker(fd, kind, start, length):
    kind, _, start, length, pid = struct.unpack(
        "hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, flock_struct(kind, start, length))
    )
    return kind, start, length, pid


def soon(condition, what):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE, what
        time.sleep(0.01)


class Child:
    """Runs a call in a process of its own, which says when it has begun and how it ended."""

    def __init__(self, call, *arguments):
        self.ours, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=self.run, args=(theirs, call, arguments))
        self.process.start()
        assert self.ours.recv() == "begun"

    @staticmethod
    def run(pipe, call, arguments):
        pipe.send("begun")
        try:
            pipe.send(call(*arguments))
        except OSError as error:
            pipe.send(error.errno)
        pipe.recv()

    def is_waiting(self, seconds):
        return not self.ours.poll(seconds)

    def answer(self):
        assert self.ours.poll(PATIENCE), "no answer"
        return self.ours.recv()

    def end(self):
        self.ours.send("end")
        self.process.join(PATIENCE)
        assert self.process.exitcode == 0, self.process.exitcode

    def kill(self):
        self.process.kill()
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, "it can't be killed"


def take(path, start=0, length=0):
    fd = opened(path)
    fcntl.lockf(fd, fcntl.LOCK_EX, length, start)
    return fd


def take_two(first, second):
    take(first)
    return take(second)


def held_everywhere(*zones):
    a, b, c = [os.path.join(zone, "file") for zone in zones]
    fd, other = opened(a), opened(b)
    os.write(fd, b"x" * 1000)
    # Ranges, kinds, and who is in the way. This process is one owner to both kernels' clients,
    # but not to the zone: its nodes are two.
    fcntl.lockf(fd, fcntl.LOCK_EX, 100, 100)
    assert is_locked(b, 150, 10) and is_locked(c, 199, 500, fcntl.LOCK_SH) and not is_locked(c, 200, 10)
    assert blocker(other, fcntl.F_RDLCK, 0, 0) == (fcntl.F_WRLCK, 100, 100, 0)
    assert blocker(other, fcntl.F_RDLCK, 0, 100)[0] == fcntl.F_UNLCK
    child = Child(lambda: blocker(opened(a), fcntl.F_WRLCK, 150, 1))
    assert child.answer() == (fcntl.F_WRLCK, 100, 100, os.getpid())
    child.end()
    fcntl.lockf(fd, fcntl.LOCK_SH, 50, 100)
    assert not is_locked(b, 100, 50, fcntl.LOCK_SH) and is_locked(b, 100, 50) and is_locked(b, 150, 1, fcntl.LOCK_SH)
    # Who waits is given the lock when it is free, a signal ends a wait, and so does a kill.
    waiter = Child(take, b, 120, 1)
    killed = Child(take, c, 160, 1)
    interrupted = Child(interrupted_wait, c)
    assert waiter.is_waiting(0.3) and interrupted.answer() == "interrupted"
    interrupted.end()
    killed.kill()
    fcntl.lockf(fd, fcntl.LOCK_UN)
    waiter.answer()
    assert is_locked(a, 120, 1) and is_locked(c, 0, 0)
    # With the process goes its lock; and with any of its descriptors of the file.
    waiter.end()
    soon(lambda: not is_locked(a), "the lock of a process that ended")
    killed = Child(take, b)
    killed.answer()
    assert is_locked(c)
    killed.kill()
    soon(lambda: not is_locked(c), "the lock of a process that was killed")
    fcntl.lockf(fd, fcntl.LOCK_EX)
    os.close(os.open(a, os.O_RDONLY))
    assert not is_locked(b)
    # A ring of two nodes is refused.
    second = os.path.join(zones[1], "second")
    held = take(a)
    ring = Child(take_two, second, b)
    assert ring.is_waiting(0.5)
    # Through the first node, of the second file.
    here = opened(os.path.join(zones[0], "second"))
    assert fails((errno.EDEADLK,), fcntl.lockf, here, fcntl.LOCK_EX)
    os.close(held)
    ring.answer()
    ring.end()
    soon(lambda: not is_locked(b), "the second of a ring")
    # flock, and locks of open files.
    fcntl.flock(fd, fcntl.LOCK_SH)
    fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert fails((errno.EAGAIN,), fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    copy = os.dup(fd)
    os.close(fd)
    assert fails((errno.EAGAIN,), fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(copy)
    soon(lambda: not fails((errno.EAGAIN,), fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB), "a closed flock")
    fd = opened(a)
    fcntl.fcntl(other, F_OFD_SETLK, flock_struct(fcntl.F_WRLCK, 0, 10))
    assert fails((errno.EAGAIN,), fcntl.fcntl, fd, F_OFD_SETLK, flock_struct(fcntl.F_WRLCK, 5, 10))
    os.close(other)
    fcntl.fcntl(fd, F_OFD_SETLKW, flock_struct(fcntl.F_WRLCK, 5, 10))
    os.close(fd)
    soon(lambda: not is_locked(c), "the lock of an open file")


def interrupted_wait(path):
    def ring(_number, _frame):
        raise InterruptedError

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        take(path, 100, 100)
    except InterruptedError:
        return "interrupted"
    return "taken"


def count(path, times):
    """Adds to a number in a file, as only who has its lock may."""
    fd = opened(path)
    for turn in range(times):
        if turn % 2:
            fcntl.lockf(fd, fcntl.LOCK_EX)
            fcntl.flock(fd, fcntl.LOCK_EX)
        else:
            fcntl.flock(fd, fcntl.LOCK_EX)
        number = int(os.pread(fd, 20, 0) or b"0")
        os.pwrite(fd, b"%020d" % (number + 1), 0)
        fcntl.flock(fd, fcntl.LOCK_UN)
        fcntl.lockf(fd, fcntl.LOCK_UN)
    os.close(fd)


def counted(times, *zones):
    paths = [os.path.join(zone, "counter") for zone in zones] * 2
    children = [Child(count, path, int(times)) for path in paths]
    for child in children:
        assert child.answer() is None
        child.end()
    for path in paths:
        with open(path) as file:
            number = int(file.read())
        assert number == len(paths) * int(times), number


def victim(path, signals):
    """Holds a lock, and, once told to go on, finds it lost."""
    fd = take(path)
    os.write(fd, b"under the lock")
    reach(signals, "held")
    soon(lambda: os.path.exists(os.path.join(signals, "go")), "to be told to go on")
    lost = (errno.EIO,)
    assert fails(lost, os.write, fd, b"without it")
    assert fails(lost, os.ftruncate, fd, 3)
    assert fails(lost, os.posix_fallocate, fd, 0, 100000)
    assert fails(lost, os.fsync, fd)
    assert fails(lost, os.copy_file_range, opened(path + " source"), fd, 10)
    assert fails(lost, fcntl.lockf, fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(fd)
    fd = opened(path)
    content = os.read(fd, 100)
    assert content == b"under the lock", content
    os.write(fd, b"!")
    os.fsync(fd)


def hold(path, signals):
    """Holds a lock until told to end."""
    fd = take(path)
    reach(signals, "held")
    soon(lambda: os.path.exists(os.path.join(signals, "go")), "to be told to end")
    try:
        os.close(fd)
    except OSError as error:
        # The daemon may have been killed meanwhile.
        assert error.errno == errno.ENOTCONN, error


def reach(signals, name):
    open(os.path.join(signals, name), "w").close()


def sqlite(transactions, *zones):
    """Programs on several nodes write one database: with a rollback journal at the same time, with
    a write-ahead log, whose index is memory that they share on one machine alone, by turns."""
    path = [os.path.join(zone, "database") for zone in zones]
    connection = sqlite3.connect(path[0], isolation_level=None)
    connection.execute("create table rows (writer int, n int, pad blob)")
    connection.execute("create table total (n int)")
    connection.execute("insert into total values (0)")
    connection.close()
    writers = [Child(write, path[i % len(path)], i, int(transactions), "delete") for i in range(2 * len(path))]
    for child in writers:
        assert child.answer() is None
        child.end()
    for turn in range(2 * len(path)):
        write(path[turn % len(path)], turn, 5, "wal")
    expected = 2 * len(path) * (int(transactions) + 5)
    for place in path:
        connection = sqlite3.connect(place, timeout=PATIENCE)
        connection.execute("pragma locking_mode=exclusive")
        verdict = connection.execute("pragma integrity_check").fetchone()[0]
        rows = connection.execute("select count(*) from rows").fetchone()[0]
        total = connection.execute("select n from total").fetchone()[0]
        connection.close()
        assert (verdict, rows, total) == ("ok", expected, expected), (verdict, rows, total, expected)


def write(path, number, transactions, journal):
    connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)
    if journal == "wal":
        connection.execute("pragma locking_mode=exclusive")
    connection.execute(f"pragma journal_mode={journal}")
    for turn in range(transactions):
        connection.execute("begin immediate")
        connection.execute("insert into rows values (?, ?, ?)", (number, turn, os.urandom(100 + 40 * turn)))
        connection.execute("update total set n = n + 1")
        connection.execute("commit")
    connection.close()


def refused(path):
    assert is_locked(path), "it is not locked"


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    {
        "everywhere": held_everywhere,
        "count": counted,
        "victim": victim,
        "hold": hold,
        "refused": refused,
        "take": lambda path: os.close(take(path)),
        "sqlite": sqlite,
    }[sys.argv[1]](*sys.argv[2:])
