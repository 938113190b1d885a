"""A window that shows frames, with Python's tkinter."""

import threading
from collections.abc import Callable

import numpy as np
from PIL import Image

from timesformer.errors import UserError
from timesformer.streaming.live import Stream

_LARGEST = 1280, 720  # pixels; larger frames are scaled down
_REFRESH = 1 / 30  # seconds


class Window:
    """A window on the screen; to be made and updated in the main thread. Raises UserError if there is no screen."""

    def __init__(self, title: str) -> None:
        try:
            import tkinter
        except ImportError as error:
            raise UserError(
                f"--show needs tkinter ({error}): `apt install python3-tk`, or use --overlay FILE"
            ) from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise UserError(f"--show: no screen to open a window on ({error}); use --overlay FILE instead") from error
        self._root.title(title)
        self._label = tkinter.Label(self._root, text="waiting for the first frame", borderwidth=0)
        self._label.pack()
        self._root.protocol("WM_DELETE_WINDOW", self._closed)
        self._newest: np.ndarray | None = None
        self._lock = threading.Lock()
        self.is_open = True

    def show(self, image: np.ndarray, seconds: float) -> None:
        """Show a frame, uint8 [height, width, 3], with the next update; any thread may call this."""
        with self._lock:
            self._newest = image

    def update(self) -> None:
        """Draw the newest frame and handle the window's buttons."""
        with self._lock:
            image, self._newest = self._newest, None
        if image is not None:
            from PIL import ImageTk

            picture = Image.fromarray(image)
            picture.thumbnail(_LARGEST)
            self._picture = ImageTk.PhotoImage(picture, master=self._root)  # tkinter does not keep it
            self._label.configure(image=self._picture)
        self._root.update()

    def close(self) -> None:
        """Remove the window."""
        if self.is_open:
            self._closed()

    def _closed(self) -> None:
        self.is_open = False
        self._root.destroy()


def follow_in_window(window: Window, stream: Stream, follow: Callable[[], None]) -> None:
    """Run `follow` in a thread, as only the main thread may update a window; closing the window ends the stream."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            follow()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="answers")
    thread.start()
    try:
        while thread.is_alive() and window.is_open:
            window.update()
            thread.join(_REFRESH)
    finally:
        stream.close()
        thread.join()
    for failure in failures:
        raise failure
