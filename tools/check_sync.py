"""Are notebooks clean, and package, tests and README what the notebooks generate? Are the rules below kept?

No module without a notebook, imports only downward, short lines and cells, no unused public name."""
import ast, json, re, subprocess, sys
from pathlib import Path

root = Path(__file__).parent.parent
venv = Path(sys.executable).parent
by_hand = {'__init__.py', 'all.py', '_modidx.py'}

wings = 'core', 'vary', 'find keep', 'spread', 'show', 'all', 'demo'         # from the ground up
max_line,long_lines_allowed = 120,0.01      # characters, and the share of lines that may have more
max_cell = 45                               # lines of an exported cell that are not empty
# classes of results and of their parts, which users meet without importing them; `children` takes users' own cases
met_by_users = {'LRFindResult', 'LRSearchResult', 'Bounds', 'GroupRates', 'Plan', 'PlannedFit', 'Comparison', 'Run', 'Snapshot',
                'LayerGroups', 'Mirrored', 'children'}

# Is everything generated?

def changes():
    return subprocess.run(['git', 'status', '--porcelain'], cwd=root, capture_output=True, text=True, check=True).stdout

def check_generated():
    "Regenerate everything; nothing may change."
    before = changes()
    for cmd in ([venv/'nbdev-clean'], [venv/'nbdev-export'], [sys.executable, 'tools/clean_outputs.py'],
                [sys.executable, 'tools/export_tests.py'], [sys.executable, 'tools/build_readme.py']):
        subprocess.run(cmd, cwd=root, check=True)
    after = changes()
    if not after: return
    by_us = '' if before==after else '(some of them were made by this check)\n'
    sys.exit(f'Uncommitted changes, or notebooks out of sync with what they generate; run `make export` and commit:\n'
             f'{after}{by_us}')

def without_notebook(root=root)->list:
    "Modules that no notebook generates."
    made = {p for nb in (root/'nbs').rglob('*.ipynb') for line in nb.read_text().splitlines()
            if '#| default_exp ' in line
            for p in [line.split('default_exp ')[1].split('\\n')[0].strip('",').replace('.', '/') + '.py']}
    there = {p.relative_to(root/'fastai_lrx').as_posix() for p in (root/'fastai_lrx').rglob('*.py')
             if p.name not in by_hand}
    return [f'fastai_lrx/{name}: no notebook generates it' for name in sorted(there - made)]

# Imports

def modules(folder=root/'fastai_lrx')->dict:
    "The syntax trees of the library's modules, by the parts of their names."
    return {p.relative_to(folder).with_suffix('').parts: ast.parse(p.read_text()) for p in sorted(folder.rglob('*.py'))
            if p.name not in ('__init__.py', '_modidx.py')}

def imported(name:tuple, tree, known)->list:
    "Of each name that a module imports from another of ours: that module, and the name, None for the module itself."
    res = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level: continue
        base = (*name[:len(name)-node.level], *(node.module.split('.') if node.module else ()))
        res += [(base, a.name) if base in known else ((*base, a.name), None) for a in node.names]
    return res

def upward_imports(mods:dict)->list:
    "Imports that do not go to a wing below the module's own."
    height = {wing: i for i,line in enumerate(wings) for wing in line.split()}
    return [f'fastai_lrx/{"/".join(name)}.py imports {".".join(other)}, which is not in a wing below'
            for name,tree in mods.items() for other in sorted({m for m,_ in imported(name, tree, mods)})
            if other[0] != name[0] and height[other[0]] >= height[name[0]]]

def circles(mods:dict)->list:
    "Modules of one wing that import each other in a circle, or need such modules."
    left = {name: {m for m,_ in imported(name, tree, mods) if m[0]==name[0]} for name,tree in mods.items()
            if len(name) > 1}
    while free := {name for name,others in left.items() if not others & left.keys()}:
        for name in free: del left[name]
    return [f'imports go in a circle: {", ".join(".".join(name) for name in sorted(left))}'] if left else []

# Lines and cells

def code_cells(folder=root/'nbs'):
    "Path, id and source of each code cell."
    for path in sorted(folder.rglob('*.ipynb')):
        for c in json.loads(path.read_text())['cells']:
            if c['cell_type']=='code': yield path,c['id'],''.join(c['source'])

def long_lines(cells, files)->list:
    "Lines that are too long, in cells and files; none where they are as few as is allowed. Prints how many there are."
    texts = [(f'{path.relative_to(root)} #{id}', source) for path,id,source in cells]
    texts += [(path.relative_to(root).as_posix(), path.read_text()) for path in files]
    lines = [(where, line) for where,text in texts for line in text.splitlines()]
    found = [f'{where}: a line of {len(line)} characters: {line.strip()[:60]}...' for where,line in lines
             if len(line) > max_line and not line.startswith('#| fig-alt')]
    print(f'{len(found)} of {len(lines)} lines have more than {max_line} characters')
    return found if len(found) > long_lines_allowed*len(lines) else []

def long_cells(cells)->list:
    "Exported cells with too many lines."
    res = []
    for path,id,source in cells:
        n = sum(bool(line.strip()) for line in source.splitlines() if not line.startswith('#|'))
        if re.match(r'#\|\s*export', source) and n > max_cell:
            res.append(f'{path.relative_to(root)} #{id}: an exported cell of {n} lines, {max_cell} are allowed')
    return res

# Public names

def public(tree)->list:
    "What a module has in `__all__`."
    return next((ast.literal_eval(st.value) for st in tree.body
                 if isinstance(st, ast.Assign) and ast.unparse(st.targets[0])=='__all__'), [])

def idle_names(mods:dict)->list:
    "Names in the `__all__` of a module that neither another module nor a user needs; `demo` is a script."
    used = {*public(mods['all',]), *met_by_users}
    for name,tree in mods.items():
        taken = imported(name, tree, mods)
        used |= {o for _,o in taken if o}
        whole = {m[-1] for m,o in taken if o is None}
        used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
                 and isinstance(node.value, ast.Name) and node.value.id in whole}
    return [f'fastai_lrx/{"/".join(name)}.py: `{o}` is in __all__, and no other module uses it: export it with '
            f'`#| exporti`' for name,tree in mods.items() if name not in (('all',), ('demo',))
            for o in public(tree) if o not in used]

def broken_rules()->list:
    "Violations of the rules."
    mods,cells = modules(),list(code_cells())
    return [*without_notebook(), *upward_imports(mods), *circles(mods),
            *long_lines(cells, sorted((root/'tools').glob('*.py'))), *long_cells(cells), *idle_names(mods)]

def main():
    check_generated()
    if broken := broken_rules(): sys.exit('\n'.join([f'{len(broken)} rules are broken:', *broken]))
    print('notebooks, package, tests and README are in sync, and the rules are kept')

if __name__=='__main__': main()
