#!/usr/bin/env python3
"""Draws docs/src/figures/session.svg: a terminal session with candor, as it happens.

Types the commands below into a real terminal (tmux), waits for what they print, and writes the
screen as SVG text, so that the picture stays small and can be searched. Needs tmux, and candor on
the path or its path as the argument:

    scripts/session.py target/release/candor
"""
import html, os, re, shutil, subprocess, sys, tempfile, time

WIDTH, HEIGHT = 78, 40
# What is typed, and what the screen shows when the next line may be typed.
STEPS = [
    ("candor fit", r"candor chat"),
    ("candor chat", r"> $"),
    ("/compare What is the capital of Australia?", r"truth [\s\S]*> $"),
]
FOREGROUND, BACKGROUND = "#d8dee4", "#1c2128"


def tmux(*words):
    return subprocess.run(["tmux", "-L", "candor-picture", *words], check=True, capture_output=True, text=True).stdout


def screen():
    return tmux("capture-pane", "-p", "-e", "-t", "picture").rstrip("\n").split("\n")


def plain(lines):
    return re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(lines)).rstrip("\n")


def record(candor):
    folder = tempfile.mkdtemp()
    os.symlink(os.path.abspath(candor), f"{folder}/candor")
    environment = [f"CANDOR_CACHE={folder}/cache", f"CANDOR_STATE={folder}/state", f"PATH={folder}:{os.environ['PATH']}", "PS1=$ ", "HISTFILE="]
    command = "env " + " ".join(f"'{e}'" for e in environment) + " bash --norc --noprofile"
    tmux("new-session", "-d", "-s", "picture", "-x", str(WIDTH), "-y", str(HEIGHT), command)
    try:
        time.sleep(1)
        for typed, shown in STEPS:
            tmux("send-keys", "-t", "picture", "-l", typed)
            tmux("send-keys", "-t", "picture", "Enter")
            for _ in range(3600):
                time.sleep(0.25)
                text = plain(screen())
                after = text[text.rindex(typed) + len(typed):] if typed in text else ""
                if re.search(shown, after) and re.search(r"[>$] ?$", text):
                    break
            else:
                sys.exit(f"`{typed}` did not come to its end:\n{plain(screen())}")
            time.sleep(0.5)
        return screen(), folder
    finally:
        tmux("kill-server")
        shutil.rmtree(folder, ignore_errors=True)


def spans(line):
    """The line's pieces, each with its style, as SVG text spans at their column."""
    style, column, out = set(), 0, []
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        code = re.fullmatch(r"\x1b\[([0-9;]*)m", piece)
        if code:
            for number in (code[1] or "0").split(";"):
                style = set() if number in ("", "0") else style | {number}
        elif piece.strip():
            indent = len(piece) - len(piece.lstrip(" "))
            kind = " ".join({"1": "b", "2": "d"}[s] for s in sorted(style & {"1", "2"}))
            text = html.escape(piece.strip(" "), quote=False)
            out.append((column + indent, kind, text))
        if not code:
            column += len(piece)
    return out


def draw(lines):
    while lines and plain(lines[-1:]).strip() in ("", ">"):
        lines = lines[:-1]
    step, width = 18, 8.43
    rows = []
    for number, line in enumerate(lines):
        for column, kind, text in spans(line):
            style = f' class="{kind}"' if kind else ""
            length = f' textLength="{len(html.unescape(text)) * width:.0f}"'
            rows.append(f'<text x="{12 + column * width:.0f}" y="{26 + number * step}"{length}{style}>{text}</text>')
    w, h = round(24 + WIDTH * width), 26 + len(lines) * step
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        f'aria-label="A terminal session with candor">\n'
        f"<style>text{{font:14px ui-monospace,Menlo,Consolas,monospace;fill:{FOREGROUND};white-space:pre}}"
        ".b{font-weight:bold}.d{opacity:.6}</style>\n"
        f'<rect width="{w}" height="{h}" rx="6" fill="{BACKGROUND}"/>\n' + "\n".join(rows) + "\n</svg>\n"
    )


if __name__ == "__main__":
    lines, folder = record(sys.argv[1] if len(sys.argv) > 1 else shutil.which("candor") or sys.exit(__doc__))
    place = os.path.join(os.path.dirname(__file__), "../docs/src/figures/session.svg")
    picture = draw(lines).replace(folder, "~/.cache/candor").replace("~/.cache/candor/cache", "~/.cache/candor")
    open(place, "w").write(picture)
    print(plain(lines), f"\n\nwrote {os.path.normpath(place)}, {len(picture)} bytes")
