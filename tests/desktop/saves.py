"""A stand-in for an application with work that is not saved yet."""

SAVES = """\
import pathlib, tkinter
root = tkinter.Tk()
root.title("Unsaved")
def close():
    pathlib.Path.home().joinpath("saved.txt").write_text("all of it")
    root.destroy()
root.protocol("WM_DELETE_WINDOW", close)
root.mainloop()
"""
"""It saves when it is asked to close."""
