"""Drop what stored outputs should not hold: warnings on stderr, with the paths of the machine that ran the notebook."""
import json
from pathlib import Path

def main():
    for path in (Path(__file__).parent.parent/'nbs').rglob('*.ipynb'):
        nb = json.loads(path.read_text())
        stored = [c for c in nb['cells'] if c.get('outputs')]
        if not any(o.get('name')=='stderr' for c in stored for o in c['outputs']): continue
        for c in stored: c['outputs'] = [o for o in c['outputs'] if o.get('name')!='stderr']
        path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=False) + '\n')

if __name__=='__main__': main()
