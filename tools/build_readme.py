"""README.md, and its pictures in README_files/, from nbs/index.ipynb."""
import re, shutil, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from notebook_md import notebook_md

root = Path(__file__).parent.parent
warning = '<!-- Generated from nbs/index.ipynb by tools/build_readme.py: edit the notebook. -->\n\n'

def light_dark(alt, light, dark):
    "What GitHub shows by theme; other sites show the light one."
    return f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}"><img alt="{alt}" src="{light}"></picture>'

def main():
    pictures = root/'README_files'
    shutil.rmtree(pictures, ignore_errors=True)
    text = notebook_md(root/'nbs'/'index.ipynb', pictures, pictures.name, light_dark)
    text = re.sub(r'\]\(([\w/]+\.ipynb)\)', r'](nbs/\1)', text)
    text = text.replace('](../', '](')
    (root/'README.md').write_text(warning + text)

if __name__=='__main__': main()
