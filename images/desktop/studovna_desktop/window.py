"""Shows one message in a window of its own; ends when the button is pressed.

A program of its own (``python -m studovna_desktop.window``), so that the toolkit takes memory only
while there is something to say. Reads the message as JSON from its standard input.
"""

from __future__ import annotations

import json
import sys
import tkinter as tk
from tkinter import font, ttk

from .texts import Message

INK, QUIET, PAPER, SHADE, BLUE = "#1d2733", "#56636f", "#ffffff", "#f1f4f7", "#1f5fae"


def build(root: tk.Tk, message: Message) -> None:
    """Fill the window; it is as wide as it can be read well, and no wider than the screen."""
    width = min(660, root.winfo_screenwidth() - 60)
    root.title(f"{message.heading} · {message.heading_cs}")
    root.iconname(message.sentence)
    root.configure(background=PAPER)
    family = next(
        (one for one in ("Noto Sans", "DejaVu Sans") if one in font.families(root)), "TkDefaultFont"
    )
    frame = tk.Frame(root, background=PAPER, padx=32, pady=26)
    frame.pack(fill="both", expand=True)

    def label(text: str, size: int, colour: str, above: int, bold: bool = False) -> None:
        style = (family, size, "bold") if bold else (family, size)
        tk.Label(
            frame,
            text=text,
            font=style,
            foreground=colour,
            background=PAPER,
            justify="left",
            anchor="w",
            wraplength=width - 64,
        ).pack(fill="x", pady=(above, 0))

    label(message.heading, -22, INK, 0, bold=True)
    label(message.sentence, -15, INK, 8)
    if message.lines:
        box = tk.Text(
            frame,
            font=("DejaVu Sans Mono", -13),
            height=min(10, len(message.lines)),
            width=20,
            background=SHADE,
            foreground=INK,
            relief="flat",
            padx=10,
            pady=8,
            wrap="char",
            highlightthickness=0,
        )
        box.insert("1.0", "\n".join(message.lines))
        box.configure(state="disabled")
        box.see("end")
        box.pack(fill="both", expand=True, pady=(12, 0))
    label(message.heading_cs, -16, QUIET, 20, bold=True)
    label(message.sentence_cs, -14, QUIET, 4)
    if message.button:
        style = ttk.Style(root)
        style.theme_use("clam")
        style.configure(
            "Again.TButton",
            font=(family, -15),
            foreground=PAPER,
            background=BLUE,
            bordercolor=BLUE,
            lightcolor=BLUE,
            darkcolor=BLUE,
            padding=(18, 9),
        )
        style.map("Again.TButton", background=[("active", "#174a8a"), ("pressed", "#174a8a")])
        button = ttk.Button(frame, text=message.button, style="Again.TButton", command=root.destroy)
        button.pack(anchor="e", pady=(22, 0))
        button.focus_set()
        root.bind("<Return>", lambda _event: root.destroy())
    root.update_idletasks()
    height = min(frame.winfo_reqheight(), root.winfo_screenheight() - 60)
    left = (root.winfo_screenwidth() - width) // 2
    top = (root.winfo_screenheight() - height) // 3
    root.geometry(f"{width}x{height}+{left}+{top}")


def main() -> None:
    """Until the button is pressed or the window closed."""
    message = Message(**json.load(sys.stdin))
    root = tk.Tk(className="Studovna")
    build(root, message)
    # The browser gives the display its size after the session has begun.
    size = [root.winfo_screenwidth(), root.winfo_screenheight()]

    def follow() -> None:
        now = [root.winfo_screenwidth(), root.winfo_screenheight()]
        if now != size:
            size[:] = now
            for child in root.winfo_children():
                child.destroy()
            build(root, message)
        root.after(500, follow)

    follow()
    root.mainloop()


if __name__ == "__main__":
    main()
