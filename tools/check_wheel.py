"""Build the wheel, install it with --no-deps into an empty folder, and import every module from there."""
import os, shutil, subprocess, sys, tempfile
from pathlib import Path

root = Path(__file__).parent.parent
check = """
import importlib, pathlib, sys, fastai_lrx
here = pathlib.Path(fastai_lrx.__file__).parent
assert here.parent==pathlib.Path(sys.argv[1]), f'imported from {here}'
names = {'.'.join(p.relative_to(here.parent).with_suffix('').parts) for p in here.rglob('*.py')}
assert names==set(sys.argv[2].split()), f'the wheel has {sorted(names)}'
for n in sorted(names): importlib.import_module(n.removesuffix('.__init__'))
print('wheel: imported', *sorted(names))
"""

def main():
    shutil.rmtree(root/'build'/'lib', ignore_errors=True)      # modules of an earlier build would be in the wheel, too
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        subprocess.run([sys.executable, '-m', 'build', '--wheel', '-o', d/'dist', root], check=True,
                       stdout=subprocess.DEVNULL)
        wheel, = (d/'dist').glob('*.whl')
        subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', d/'lib', wheel],
                       check=True)
        names = ' '.join('.'.join(p.relative_to(root).with_suffix('').parts) for p in (root/'fastai_lrx').rglob('*.py'))
        subprocess.run([sys.executable, '-W', 'ignore', '-c', check, d/'lib', names], check=True, cwd=d,
                       env={**os.environ, 'PYTHONPATH': str(d/'lib')})

if __name__=='__main__': main()
