"""Build the wheel, install it with --no-deps into an empty folder that stands first on the path, import every module from there."""
import os, subprocess, sys, tempfile
from pathlib import Path

root = Path(__file__).parent.parent
check = """
import importlib, pathlib, sys, fastai_lrx
here = pathlib.Path(fastai_lrx.__file__).parent
assert here.parent==pathlib.Path(sys.argv[1]), f'imported from {here}'
names = {p.stem for p in here.glob('*.py')} - {'__init__', '_modidx'}
assert names==set(sys.argv[2].split()), f'the wheel has {sorted(names)}'
for n in sorted(names): importlib.import_module(f'fastai_lrx.{n}')
print('wheel: imported', *sorted(names))
"""

def main():
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        subprocess.run([sys.executable, '-m', 'build', '--wheel', '-o', d/'dist', root], check=True, stdout=subprocess.DEVNULL)
        wheel, = (d/'dist').glob('*.whl')
        subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', d/'lib', wheel], check=True)
        names = ' '.join(p.stem for p in (root/'fastai_lrx').glob('*.py') if p.stem not in ('__init__', '_modidx'))
        subprocess.run([sys.executable, '-W', 'ignore', '-c', check, d/'lib', names], check=True, cwd=d, env={**os.environ, 'PYTHONPATH': str(d/'lib')})

if __name__=='__main__': main()
