"""Are notebooks clean, and package, tests and README what the notebooks generate? Also no module without a notebook."""
import subprocess, sys
from pathlib import Path

root = Path(__file__).parent.parent
venv = Path(sys.executable).parent
by_hand = {'__init__.py', 'all.py', '_modidx.py'}

def changes():
    return subprocess.run(['git', 'status', '--porcelain'], cwd=root, capture_output=True, text=True, check=True).stdout

def main():
    before = changes()
    for cmd in ([venv/'nbdev-clean'], [venv/'nbdev-export'], [sys.executable, 'tools/clean_outputs.py'],
                [sys.executable, 'tools/export_tests.py'], [sys.executable, 'tools/build_readme.py']):
        subprocess.run(cmd, cwd=root, check=True)
    if after := changes():
        sys.exit(f'Uncommitted changes, or notebooks out of sync with what they generate; run `make export` and '
                 f'commit:\n{after}'
                                    + ('' if before==after else '(some of them were made by this check)\n'))
    made = {p for nb in (root/'nbs').rglob('*.ipynb') for line in nb.read_text().splitlines()
            if '#| default_exp ' in line
            for p in [line.split('default_exp ')[1].split('\\n')[0].strip('",').replace('.', '/') + '.py']}
    if orphans := {p.relative_to(root/'fastai_lrx').as_posix() for p in (root/'fastai_lrx').rglob('*.py')
                   if p.name not in by_hand} - made:
        sys.exit(f'Modules without a notebook: {sorted(orphans)}')
    print('notebooks, package, tests and README are in sync')

if __name__=='__main__': main()
