"""The points that a run passes, and a process that ends itself at one of them.

A point is an operation on the run folder or one of a few calls, for example "rename checkpoints/#.tmp" or
"call records". The operations are all that Python does in the run folder, by our code or by Orbax: to open a file for
writing, to write, to flush to disk, to rename, to make a folder, and to remove. TensorStore's data files, which it
writes outside Python, are points too. In a point's name "#" stands for a number, and ITEM for one of a checkpoint's
four items, so a point recurs for every step and item.
"""

import json
import os
import pathlib
import re
import signal
import threading
import time


class Points:
    """Watches the points that this process passes, and ends the process at a chosen one.

    Args:
        notes: the file to which points are written, a JSON list per line.
        workdir: the run folder; "" for the current folder.
        kill: the chosen point, as in `driver.Driver.start`; None for none.
        record: whether to note every point.
    """

    def __init__(self, notes: str, workdir: str, kill: dict | None, record: bool):
        self.notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.workdir = os.path.abspath(workdir or ".")
        self.record = record
        self.point = tuple(kill["point"]) if kill else None
        self.left, self.seconds = (kill["number"], kill["seconds"]) if kill else (0, 0)
        self.does = kill.get("does", "end") if kill else None
        self.write = os.write
        self.guard = threading.Lock()

    def watch(self) -> None:
        """Wraps the functions of Python that reach the operating system, and a few calls of the library."""
        import builtins
        import io

        from diffusion.data.sources import Records
        from diffusion.training.checkpointing import checkpoint_writer, checkpoints

        if not self.point and not self.record:
            return
        for name in ("mkdir", "rename", "replace", "remove", "unlink", "rmdir", "fsync"):
            setattr(os, name, self.around(getattr(os, name), {"replace": "rename", "unlink": "remove"}.get(name, name)))
        os.write = self.writing(os.write)
        builtins.open = io.open = self.opening(io.open)
        os.open = self.opening(os.open)
        Records.__getitems__ = self.around_call(Records.__getitems__, "records")
        for module, names in (
            (checkpoints, ("_read", "checksums", "restore_latest")),
            (checkpoint_writer, ("_described",)),
        ):
            for name in names:
                setattr(module, name, self.around_call(getattr(module, name), name))
        self.passed("start", "after")
        if self.point and self.point[0].startswith("data "):
            threading.Thread(target=self.wait_for_data, daemon=True).start()

    def passed(self, name: str, when: str) -> None:
        """Notes a point and acts at the chosen one; every wrapped function calls this, in any thread."""
        with self.guard:
            if self.record:
                self.note(name, when)
            if (name, when) == self.point:
                self.left -= 1
                if self.left == 0 and self.does == "wait":
                    self.note(name, when)
                    time.sleep(self.seconds)
                elif self.left == 0 and self.does == "clock":
                    self.note(name, when)
                    clock = time.time
                    time.time = lambda: clock() + self.seconds
                elif self.left == 0 and self.seconds:
                    threading.Timer(self.seconds, self.end, (name, when)).start()
                elif self.left == 0:
                    self.end(name, when)

    def armed(self, name: str, when: str) -> bool:
        """Whether the process will end at the next time of this point."""
        return (name, when) == self.point and self.left == 1

    def note(self, name: str, when: str) -> None:
        self.write(self.notes, (json.dumps([name, when]) + "\n").encode())

    def end(self, name: str, when: str) -> None:
        if not self.record:
            self.note(name, when)
        os.kill(os.getpid(), signal.SIGKILL)

    def name(self, operation: str, path, folder=None) -> str | None:
        """The name of the point for an operation on a path; None if the path lies outside the run folder."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif folder is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fspath(path))
        relative = os.path.relpath(os.path.abspath(path), self.workdir)
        if relative.startswith(".."):
            return None
        relative = relative.replace("orbax-checkpoint-", "")
        relative = re.sub(r"/(params|ema|training|about)(?=[./]|$)", "/ITEM", relative)
        relative = re.sub(r"/d/[0-9a-f]{32}", "/d/FILE", relative)
        return f"{operation} {re.sub(r'[0-9]+', '#', relative)}"

    def around(self, function, operation):
        def watched(path, *args, **kwargs):
            name = self.name(operation, path, kwargs.get("dir_fd"))
            if name:
                self.passed(name, "before")
            result = function(path, *args, **kwargs)
            if name:
                self.passed(name, "after")
            return result

        return watched

    def around_call(self, function, name):
        def watched(*args, **kwargs):
            self.passed(f"call {name}", "before")
            result = function(*args, **kwargs)
            self.passed(f"call {name}", "after")
            return result

        return watched

    def opening(self, function):
        """Wraps `open`: a file opened for writing passes "before" and "after", and its writes are then watched."""

        def watched(path, mode="r", *args, **kwargs):
            writes = mode & (os.O_WRONLY | os.O_RDWR) if isinstance(mode, int) else set("wax+") & set(mode)
            name = self.name("open", path, kwargs.get("dir_fd")) if writes else None
            if name:
                self.passed(name, "before")
            file = function(path, mode, *args, **kwargs)
            if name:
                self.passed(name, "after")
            return file if not name or isinstance(file, int) else Watched(file, self, name.replace("open", "write"))

        return watched

    def writing(self, function):
        """Wraps `os.write`: it passes "before", "half" (half of the bytes are written) and "after"."""

        def watched(descriptor, data):
            name = self.name("write", descriptor)
            if not name:
                return function(descriptor, data)
            self.passed(name, "before")
            if self.armed(name, "half"):
                function(descriptor, data[: len(data) // 2])
            self.passed(name, "half")
            result = function(descriptor, data)
            self.passed(name, "after")
            return result

        return watched

    def wait_for_data(self) -> None:
        """Polls for new data files of TensorStore: files that it begins ("data begun") or merges ("data merged")."""
        name, when = self.point
        pattern = {"data begun": "*tmp*/*/ocdbt.process_0/d/*", "data merged": "*tmp*/*/d/*"}[name]
        folder = pathlib.Path(self.workdir, "checkpoints")
        seen = set()
        while True:
            new = set(folder.glob(pattern)) - seen
            seen |= new
            for _ in new:
                self.passed(name, when)
            time.sleep(0.0002)


class Watched:
    """A file whose writes pass the points "before", "half" and "after"."""

    def __init__(self, file, points: Points, name: str):
        self._file, self._points, self._point = file, points, name

    def write(self, data):
        self._points.passed(self._point, "before")
        if self._points.armed(self._point, "half"):
            self._file.write(data[: len(data) // 2])
            self._file.flush()
        self._points.passed(self._point, "half")
        result = self._file.write(data)
        if self._points.armed(self._point, "after"):
            self._file.flush()
        self._points.passed(self._point, "after")
        return result

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *args):
        return self._file.__exit__(*args)

    def __iter__(self):
        return iter(self._file)
