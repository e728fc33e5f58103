"""flock, fcntl and open-file-description locks. Argument: folder."""

import errno
import fcntl
import os
import signal
import struct
import sys

F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38


def flock_struct(kind, start, length):
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def refused(call):
    try:
        call()
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.EACCES), error
        return True
    return False


def in_child(call):
    """Runs call in a child; its truth is the answer."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if call() else 1)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(2)
    status = os.waitpid(pid, 0)[1]
    assert os.waitstatus_to_exitcode(status) in (0, 1), "the child failed"
    return os.waitstatus_to_exitcode(status) == 0


def open_file(path):
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def test_flock(path):
    held, other = open_file(path), open_file(path)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert refused(lambda: fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB))
    assert in_child(lambda: refused(lambda: fcntl.flock(open_file(path), fcntl.LOCK_EX | fcntl.LOCK_NB)))
    fcntl.flock(held, fcntl.LOCK_SH)
    fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert refused(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB))
    # Closing the last descriptor of the open file frees it.
    copy = os.dup(held)
    os.close(held)
    assert refused(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB))
    os.close(copy)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_fcntl(path):
    fd = open_file(path)
    os.ftruncate(fd, 1000)
    fcntl.lockf(fd, fcntl.LOCK_EX, 100, 100)
    # Another process is refused where it overlaps, and nowhere else.
    assert in_child(lambda: refused(lambda: fcntl.lockf(open_file(path), fcntl.LOCK_SH | fcntl.LOCK_NB, 50, 180)))
    assert in_child(lambda: not refused(lambda: fcntl.lockf(open_file(path), fcntl.LOCK_EX | fcntl.LOCK_NB, 100, 200)))

    # It is told who holds what.
    parent = os.getpid()

    def who():
        answer = fcntl.fcntl(open_file(path), fcntl.F_GETLK, flock_struct(fcntl.F_WRLCK, 0, 0))
        kind, _, start, length, pid = struct.unpack("hhqqi4x", answer)
        return (kind, start, length, pid) == (fcntl.F_WRLCK, 100, 100, parent)

    assert in_child(who)
    # Part of it can be freed.
    fcntl.lockf(fd, fcntl.LOCK_UN, 50, 100)
    assert in_child(lambda: not refused(lambda: fcntl.lockf(open_file(path), fcntl.LOCK_EX | fcntl.LOCK_NB, 50, 100)))
    assert in_child(lambda: refused(lambda: fcntl.lockf(open_file(path), fcntl.LOCK_EX | fcntl.LOCK_NB, 50, 150)))
    # Closing any descriptor of the file frees all of the process's.
    os.close(open_file(path))
    assert in_child(lambda: not refused(lambda: fcntl.lockf(open_file(path), fcntl.LOCK_EX | fcntl.LOCK_NB)))
    os.close(fd)


def test_ofd(path):
    one, two = open_file(path), open_file(path)
    fcntl.fcntl(one, F_OFD_SETLK, flock_struct(fcntl.F_WRLCK, 0, 10))
    # Two open files of one process conflict.
    assert refused(lambda: fcntl.fcntl(two, F_OFD_SETLK, flock_struct(fcntl.F_WRLCK, 5, 10)))
    fcntl.fcntl(two, F_OFD_SETLK, flock_struct(fcntl.F_WRLCK, 10, 10))
    # Closing an unrelated descriptor frees nothing.
    os.close(open_file(path))
    assert refused(lambda: fcntl.fcntl(two, F_OFD_SETLK, flock_struct(fcntl.F_RDLCK, 0, 5)))
    answer = fcntl.fcntl(two, F_OFD_GETLK, flock_struct(fcntl.F_WRLCK, 0, 5))
    assert struct.unpack("hhqqi4x", answer)[0] == fcntl.F_WRLCK
    os.close(one)
    fcntl.fcntl(two, F_OFD_SETLK, flock_struct(fcntl.F_RDLCK, 0, 5))
    os.close(two)


def test_waiting(path, lock, unlock):
    """A waiter gets the lock when the holder lets go, or dies."""
    for dies in (False, True):
        ready_read, ready_write = os.pipe()
        go_read, go_write = os.pipe()
        holder = os.fork()
        if holder == 0:
            fd = open_file(path)
            lock(fd)
            os.write(ready_write, b"x")
            os.read(go_read, 1)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            unlock(fd)
            signal.pause()
        os.read(ready_read, 1)
        waiter = os.fork()
        if waiter == 0:
            fd = open_file(path)
            os.write(ready_write, b"w")
            lock(fd)
            os._exit(0)
        os.read(ready_read, 1)
        assert os.waitpid(waiter, os.WNOHANG) == (0, 0), "the lock was held, and yet given"
        os.write(go_write, b"g")
        assert os.waitstatus_to_exitcode(os.waitpid(waiter, 0)[1]) == 0
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)


if __name__ == "__main__":
    folder = sys.argv[1]
    signal.alarm(120)
    test_flock(os.path.join(folder, "flock"))
    test_fcntl(os.path.join(folder, "fcntl"))
    test_ofd(os.path.join(folder, "ofd"))
    test_waiting(
        os.path.join(folder, "wait-flock"),
        lambda fd: fcntl.flock(fd, fcntl.LOCK_EX),
        lambda fd: fcntl.flock(fd, fcntl.LOCK_UN),
    )
    test_waiting(
        os.path.join(folder, "wait-fcntl"),
        lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX),
        lambda fd: fcntl.lockf(fd, fcntl.LOCK_UN),
    )
    test_waiting(
        os.path.join(folder, "wait-ofd"),
        lambda fd: fcntl.fcntl(fd, F_OFD_SETLKW, flock_struct(fcntl.F_WRLCK, 0, 0)),
        lambda fd: fcntl.fcntl(fd, F_OFD_SETLK, flock_struct(fcntl.F_UNLCK, 0, 0)),
    )
