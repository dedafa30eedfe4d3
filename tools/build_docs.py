"""The documentation site in _site/: processed notebooks -> MyST pages -> Sphinx, without network. Warnings are errors."""
import json, re, shutil, subprocess, sys, yaml
from pathlib import Path

from fastcore.xtras import Config
from nbdev.config import get_config
from nbdev.serve import proc_nbs

import fastai_lrx.all
sys.path.insert(0, str(Path(__file__).parent))
from notebook_md import notebook_md

conf = """
project = '{docs_title}'
copyright = 'the fastai_lrx maintainers'
version = release = '{version}'
extensions = ['myst_parser', 'sphinx.ext.mathjax', 'sphinx-mathjax-offline', 'sphinx_copybutton']
myst_enable_extensions = ['attrs_inline', 'colon_fence', 'dollarmath']
myst_all_links_external = True
myst_heading_anchors = 3
suppress_warnings = ['myst.header']
html_theme = '{docs_theme}'
html_title = '{docs_title} {version}'
html_static_path = ['static']
html_css_files = ['lrx.css']
html_show_sphinx = False
pygments_style, pygments_dark_style = 'friendly', 'monokai'
"""
css = """
img { background: white; border-radius: 4px; max-width: min(100%, 42rem); }
table.dataframe { font-size: .85em; margin: .5em 0 1em; }
table.dataframe td, table.dataframe th { padding: .2em .8em; text-align: right; }
"""
groups = {'Using it': ['finder', 'range_tests', 'cycles', 'snapshots', 'resume', 'preview', 'compare', 'fine_tune', 'precompute', 'layer_groups', 'backbones', 'scheduled', 'schedules', 'state', 'demo'], 'Under the hood': ['suggest', 'storage', 'plots']}

def page_name(path): return re.sub(r'^\d+[a-z]?_', '', Path(path).stem)

def page(path, images):
    "A processed notebook as a page."
    text = notebook_md(path, images/page_name(path), f'images/{page_name(path)}')
    text = re.sub(r'<!-- WARNING.*?-->\s*', '', text)
    text = re.sub(r'\A# .*\n', '', text)
    description = front_matter(path).get('description')
    intro = f'# {page_name(path)}\n\n' + (f'> {description}\n\n' if description else '')
    # API entries come as a rule, a source link, a heading, a signature and a docstring; where the page shows the code itself, that is enough
    shown = set(re.findall(r'^(?:def|class) (\w+)', ''.join(re.findall(r'^``` python\n(.*?)^```', text, flags=re.S|re.M)), flags=re.M))
    def entry(m):
        module,name,signature = m.groups()
        anchor,heading = f'<a id="{name.lower()}"></a>', f'### {name}\n\n[source](source-{module}.html)'
        if name not in shown: return f'{anchor}\n\n{heading}\n\n{signature}'
        return f'{anchor}\n\n{heading}\n' if name in fastai_lrx.all.__all__ else anchor
    text = re.sub(r'---\n\n\[source\]\(/blob/main/fastai_lrx/(\w+)\.py#L\d+\)\{[^}]*\}\n\n### (.+?)\n\n(```python\n.*?^```(?:\n\n\*.+?\*$)?)', entry, text, flags=re.S|re.M)
    text = re.sub(r'\]\(/(\w+\.html)', r'](\1', text)                                              # doclinks of our own
    text = re.sub(r'\]\((\w+)\.ipynb\)', lambda m: f'](' + page_name(m[1]) + '.html)', text)       # links to notebooks
    return intro + text

def front_matter(path):
    "Title, description and file name of a processed notebook."
    raw = next((''.join(c['source']) for c in json.loads(Path(path).read_text())['cells'] if c['cell_type']=='raw'), '')
    return yaml.safe_load(raw.strip().strip('-')) or {}

def main():
    cfg,ini = get_config(),Config.find('settings.ini')
    root = cfg.config_path
    build,site = root/ini.docs_build_path, root/ini.docs_path
    for d in (build, site): shutil.rmtree(d, ignore_errors=True)
    (build/'static').mkdir(parents=True)
    proc_nbs()
    notebooks = [p for p in sorted((root/'_proc').glob('*.ipynb')) if (root/'nbs'/p.name).exists()]
    modules = []
    for p in notebooks:
        text,name = page(p, build/'images'),page_name(p)
        if name=='index':
            text = text.replace('# index\n', f'# {ini.docs_title}\n', 1)
            for title,names in groups.items(): text += f"\n```{{toctree}}\n:caption: {title}\n:hidden:\n\n" + '\n'.join(names) + '\n```\n'
            text += '\n```{toctree}\n:caption: More\n:hidden:\n\nchangelog\ncontributing\nsource\n```\n'
        else: modules.append(name)
        (build/f'{name}.md').write_text(text)
    if missing := set(modules) - {n for ns in groups.values() for n in ns}: raise SystemExit(f'tools/build_docs.py: name these pages in `groups`: {missing}')
    for m in modules: (build/f'source-{m}.md').write_text(f'# {m}.py\n\n```{{literalinclude}} ../fastai_lrx/{m}.py\n:language: python\n:linenos:\n```\n')
    (build/'source.md').write_text('# Source code\n\n```{toctree}\n' + '\n'.join(f'source-{m}' for m in modules) + '\n```\n')
    for name in ('CHANGELOG', 'CONTRIBUTING'): shutil.copy(root/f'{name}.md', build/f'{name.lower()}.md')
    (build/'static'/'lrx.css').write_text(css)
    (build/'conf.py').write_text(conf.format(version=cfg.version, **ini.d))
    subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html', build, site], check=True)
    for p in build.glob('*.md'): shutil.copy(p, site/f'{p.stem}.html.md')
    pages = [f'- [{n}]({n}.html.md)' for n in ['index', *modules]]
    (site/'llms.txt').write_text(f'# {ini.docs_title}\n\n> {cfg.description}\n\n' + '\n'.join(pages) + '\n')
    print(f'{len(notebooks)} pages in {site.relative_to(root)}/')

if __name__=='__main__': main()
