"""README.md, and its pictures in README_files/, from nbs/index.ipynb."""
import re, shutil, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from notebook_md import notebook_md

root = Path(__file__).parent.parent
warning = '<!-- Generated from nbs/index.ipynb by tools/build_readme.py: edit the notebook. -->\n\n'

def main():
    pictures = root/'README_files'
    shutil.rmtree(pictures, ignore_errors=True)
    text = notebook_md(root/'nbs'/'index.ipynb', pictures, pictures.name)
    text = re.sub(r'\]\(([\w/]+\.ipynb)\)', r'](nbs/\1)', text)
    (root/'README.md').write_text(warning + text)

if __name__=='__main__': main()
