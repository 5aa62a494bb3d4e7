"""What tests run inside a desktop's pod."""

LIST_WINDOWS = """
for window in $(xprop -root _NET_CLIENT_LIST | grep -o '0x[0-9a-f]*'); do
  echo "$window $(xprop -id "$window" -notype _NET_WM_NAME WM_NAME | grep -m 1 -o '".*"')"
done
"""
"""Id and title of each window."""

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
"""A stand-in for an application with work that is not saved: it saves when it is asked to close."""
