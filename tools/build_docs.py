"""The documentation site in _site/: processed notebooks -> MyST pages -> Sphinx, without network.

Warnings are errors."""
import inspect, json, re, shutil, subprocess, sys, yaml
from pathlib import Path

from fastcore.xtras import Config
from nbdev.config import get_config
from nbdev.serve import proc_nbs
from fastai.learner import Learner, Recorder

import fastai_lrx.all
from fastai_lrx._modidx import d as modidx
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
html_favicon = 'static/favicon.svg'
html_show_sphinx = False
pygments_style, pygments_dark_style = 'friendly', 'monokai'
"""
# two cosine cycles
favicon = ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><path d="M2 6C7 6 7 26 12 26V6c9 0 9 20 18 20" '
           'fill="none" stroke="#1f77b4" stroke-width="4" stroke-linejoin="round"/></svg>')
css = """
img { background: white; border-radius: 4px; max-width: min(100%, 42rem); }
img.wide { max-width: 100%; }
@media (max-width: 46em) {
  table.docutils td { padding: .25em .4em; }
  table.docutils td code, table.docutils td code .pre { white-space: normal; overflow-wrap: anywhere; }
}
/* tables of measurements with many columns: scroll rather than break in the middle of a number */
#benchmarks tr:has(> :nth-child(7)) td { white-space: nowrap; }
/* what screen readers read of a formula: clipped from sight, yet as wide as its source would be */
mjx-assistive-mml { max-width: 1px; }
table.dataframe {
  display: block; overflow-x: auto; max-width: 100%; width: max-content; margin: .5em 0 1em;
  border: 0; border-collapse: collapse; font-size: .85em;
}
table.dataframe td, table.dataframe th {
  padding: .2em .8em; text-align: right; border: 0; border-bottom: 1px solid var(--color-background-border);
}
"""
groups = {
    'Guides': ['what_a_learning_rate_does', 'how_to_choose_it', 'why_to_vary_it', 'pretrained_models'],
    'Tutorials': ['recipe', 'cycles_and_ensembles', 'fine_tuning_timm', 'text', 'tabular', 'long_runs', 'moving'],
    'How to': ['mixed_precision', 'gradient_accumulation', 'several_gpus', 'kaggle', 'custom_models',
               'custom_rules', 'faq'],
    'Reference': ['reference'],
    'Find': ['finder', 'lr_search', 'range_tests', 'curves', 'sweep', 'watched', 'short_fit'],
    'Vary': ['cycles', 'schedules', 'decays', 'scheduled', 'recorder'],
    'Spread': ['fine_tune', 'precompute', 'layer_groups', 'layers', 'freezing', 'backbones', 'fixed_layers', 'rows',
               'activations'],
    'Keep': ['average', 'anytime', 'snapshots', 'ensembles', 'soup', 'mean_prediction', 'resume', 'recover', 'run_state', 'same_fit'],
    'Show': ['dry_run', 'plan', 'compare', 'comparison', 'demo'],
    'Core': ['state', 'remember', 'trial', 'learner', 'objects', 'callbacks', 'args', 'processes', 'origin',
             'fingerprint', 'storage', 'weights', 'plots', 'messages'],
    'More': ['benchmarks', 'changelog', 'contributing', 'source']}

# a page is called as its module is, without folders
symbols = {module.rpartition('.')[2]: syms for module,syms in modidx['syms'].items()}
files = {module.rpartition('.')[2]: '/'.join(module.split('.')) + '.py' for module in modidx['syms']}

def page_name(path): return Path(path).stem

def light_dark(alt, light, dark):
    "Furo shows one of them, by theme."
    return f'![{alt}]({light}){{.only-light .wide}}\n\n![{alt}]({dark}){{.only-dark .wide}}'

def page(path, images):
    "A processed notebook as a page."
    text = notebook_md(path, images/page_name(path), f'images/{page_name(path)}', light_dark)
    text = re.sub(r'<!-- WARNING.*?-->\s*', '', text)
    text = re.sub(r'\A# .*\n', '', text)
    text = text.replace('->__main__.', '->')       # nbdev's name of a class that the notebook defines
    description = front_matter(path).get('description')
    intro = f"# {front_matter(path).get('title') or page_name(path)}\n\n"
    if description: intro += f'> {description}\n\n'
    # API entries come as a rule, a source link, a heading, a signature and a docstring;
    # where the page shows the code itself, that is enough
    shown = set(re.findall(r'^(?:def|class) (\w+)',
                           ''.join(re.findall(r'^``` python\n(.*?)^```', text, flags=re.S|re.M)), flags=re.M))
    def entry(m):
        module,name,signature = m.groups()
        anchor,heading = f'<a id="{name.lower()}"></a>', f'### {name}\n\n[source](source-{module}.html)'
        if name not in shown: return f'{anchor}\n\n{heading}\n\n{signature}'
        return f'{anchor}\n\n{heading}\n' if name in fastai_lrx.all.__all__ else anchor
    text = re.sub(r'---\n\n\[source\]\(/blob/main/fastai_lrx/(?:\w+/)*(\w+)\.py#L\d+\)\{[^}]*\}\n\n### '
                  r'(.+?)\n\n(```python\n.*?^```(?:\n\n\*.+?\*$)?)', entry, text, flags=re.S|re.M)
    def bare(m):       # nbdev does not say whose method a patched context manager is, nor where its source is
        link = next((link for name,(link,_) in symbols.get(page_name(path), {}).items()
                     if name.endswith(f'.Learner.{m[1]}')), None)
        if not link: return m[0]
        anchor,source = link.partition('#')[2],f'source-{page_name(path)}.html'
        return f'<a id="{anchor}"></a>\n\n### Learner.{m[1]}\n\n[source]({source})\n\n'
    text = re.sub(r'^---\n\n### (\w+)\n\n(?=```python)', bare, text, flags=re.M)
    known = set(re.findall(r'<a id="([^"]+)">', text))
    # patched context managers and methods have no anchor of their own
    for link,_ in symbols.get(page_name(path), {}).values():
        anchor = link.partition('#')[2]
        home = next((a for a in (anchor.rpartition('.')[2], anchor.rpartition('.')[0]) if a in known), None)
        if anchor not in known and home:
            text = text.replace(f'<a id="{home}"></a>', f'<a id="{home}"></a><a id="{anchor}"></a>', 1)
    # nbdev links names within links again
    text = re.sub(r'\[(\[`[^`]+`\]\([^)]+\))\]\([^)]+\)', r'\1', text)
    # doclinks of our own
    text = re.sub(r'\]\(/(?:\w+/)*(\w+\.html)', r'](\1', text)
    # links to notebooks
    text = re.sub(r'\]\((?:\.\./)*(?:\w+/)*(\w+)\.ipynb(#[\w.-]+)?\)',
                  lambda m: f'](' + page_name(m[1]) + '.html' + (m[2] or '') + ')', text)
    # links to reports
    text = re.sub(r'\]\((?:\.\./)+benchmarks/results/(\w+)\.md\)', r'](benchmarks.html#\1)', text)
    return intro + text

def to_source(text, texts):
    "Links to names of ours that their page does not show, as no other page uses them, lead to the source."
    def target(m):
        name,anchor = m.groups()
        ours = any(link.partition('#')[2] == anchor for link,_ in symbols.get(name, {}).values())
        return f'](source-{name}.html)' if ours and f'<a id="{anchor}">' not in texts.get(name, '') else m[0]
    return re.sub(r'\]\((\w+)\.html#([\w.-]+)\)', target, text)

def front_matter(path):
    "Title, description and file name of a processed notebook."
    raw = next((''.join(c['source']) for c in json.loads(Path(path).read_text())['cells'] if c['cell_type']=='raw'), '')
    return yaml.safe_load(raw.strip().strip('-')) or {}

questions = [                                      # what a user wants, the call, the page
    ('find a learning rate', 'learn.lr_find()', 'finder'),
    ('find the rate for one particular fit', 'learn.lr_search(fit)', 'lr_search'),
    ('find bounds for cyclical training', 'learn.lr_range_test()', 'range_tests'),
    ('train in cycles', 'learn.fit_sgdr(3, 1)', 'cycles'),
    ('use a schedule in any fit', 'learn.fit(5, cbs=Scheduled(lr=Linear(1e-2)))', 'decays'),
    ('train without knowing for how long', 'learn.fit_anytime(5)', 'anytime'),
    ('fine-tune a pretrained model', 'learn.fine_tune_discriminative(5, cbs=Average())', 'fine_tune'),
    ('fine-tune with few images', 'learn.fine_tune_discriminative(5, norm_eval=True)', 'fine_tune'),
    ('use a timm model with more than two layer groups', "timm_learner(dls, 'convnext_tiny')", 'backbones'),
    ('give an existing learner more layer groups', 'learn.regroup(4)', 'layer_groups'),
    ('compute a frozen body only once', 'with learn.precomputed():', 'precompute'),
    ('end a fit with averaged weights', 'cbs=Average()', 'average'),
    ('keep a model from every cycle', 'cbs=Snapshots()', 'snapshots'),
    ('predict with several models', 'SnapshotEnsemble(learn, snaps)', 'ensembles'),
    ('merge several models into one', 'SnapshotEnsemble(learn, snaps).to_model()', 'soup'),
    ('stop when the model overfits', 'cbs=UntilOverfit()', 'cycles'),
    ('survive a crash', "cbs=Resume('run')", 'resume'),
    ('survive a NaN', 'cbs=Recover()', 'recover'),
    ('see what a fit will do', 'with learn.dry_run() as plan:', 'dry_run'),
    ('compare several ways to train', 'learn.compare({...})', 'compare'),
    ('try something and undo it', 'with learn.preserved():', 'state')]

def reference():
    "A page that lists every public name, after a table by question."
    def row(name, shown, o):
        at = next((syms[name][0].rpartition('/')[2] for syms in symbols.values() if name in syms), None)
        said = (inspect.getdoc(o) or '').split('\n')[0].replace('|', '\\|')
        return f'| [`{shown}`]({at}) | {said} |'
    def patched(cls):
        own = {k: getattr(v, 'fget', v) for k,v in vars(cls).items()}
        return [(f'{f.__module__}.{f.__qualname__}',
                 f'{cls.__name__.lower().replace("learner", "learn").replace("recorder", "learn.recorder")}.{k}', f)
                 for k,f in sorted(own.items()) if str(getattr(f, '__module__', '')).startswith('fastai_lrx.')]
    names = [(f'{o.__module__}.{o.__qualname__}', o.__qualname__, o)
             for o in (getattr(fastai_lrx.all, n) for n in fastai_lrx.all.__all__)]
    table = lambda rows: '| | |\n|---|---|\n' + '\n'.join(row(*r) for r in rows)
    wanted = '\n'.join(f'| {want} | `{call}` | [{page}]({page}.html) |' for want,call,page in questions)
    return ('# reference\n\n> Which call does what, everything a learner can do, and every name that the star import '
            'gives you\n\n## I want to ...\n\n| | write | page |\n|---|---|---|\n' + wanted + '\n\n## A learner can\n\n' + table(patched(Learner) + patched(Recorder))
            + '\n\n## What `from fastai_lrx.all import *` imports\n\n' + table(names) + '\n')

reports = 'suggest', 'knowing', 'find', 'fine_tune', 'cycles', 'anytime', 'precompute', 'groups', 'resume', 'cuda'

def benchmarks(folder, build):
    "A page of all measurements: the question and the conclusion of each, then the reports with their plots."
    texts = {name: (folder/'results'/f'{name}.md').read_text() for name in reports}
    if missing := {p.stem for p in (folder/'results').glob('*.md')} - set(reports):
        raise SystemExit(f'tools/build_docs.py: name these results in `reports`: {missing}')
    def found(pattern, text): return re.search(pattern, text, flags=re.M)[1]
    contents = [f"- [{found('^# (.+)', text)}](#{name}) {found(r'^[*][*]Conclusion:[*][*] (.+)', text)}"
                for name,text in texts.items()]
    def part(name, text):
        text = re.sub(r'^(#+ )', r'#\1', text, flags=re.M)
        return f'<a id="{name}"></a>\n\n' + re.sub(r'\]\((\w+\.png)\)', r'](images/benchmarks/\1)', text)
    shutil.copytree(folder/'results', build/'images'/'benchmarks', ignore=shutil.ignore_patterns('*.json', '*.md'))
    return ('# benchmarks\n\n> What was measured, on what, and what to conclude\n\nProtocol, tasks and seeds were fixed '
            'before the first result, and results that look bad for us are kept. "Stock" is fastai alone. `make bench` '
            'measures all of it again, in a few hours on two cores.\n\n' + '\n'.join(contents) + '\n\n'
            + '\n'.join(part(*o) for o in texts.items()))

def main():
    cfg,ini = get_config(),Config.find('settings.ini')
    root = cfg.config_path
    build,site = root/ini.docs_build_path, root/ini.docs_path
    for d in (build, site): shutil.rmtree(d, ignore_errors=True)
    (build/'static').mkdir(parents=True)
    proc_nbs()
    notebooks = [p for p in sorted((root/'_proc').rglob('*.ipynb'))
                 if (root/'nbs'/p.relative_to(root/'_proc')).exists() and p.parent.name != 'checks']
    pages,modules = {p: page_name(p) for p in notebooks},[]
    texts = {name: page(p, build/'images') for p,name in pages.items()}
    for name,text in texts.items():
        text = to_source(text, texts)
        if name=='index':
            text += ''.join(f'\n```{{toctree}}\n:caption: {title}\n:hidden:\n\n' + '\n'.join(names) + '\n```\n'
                            for title,names in groups.items())
        elif name in files: modules.append(name)
        (build/f'{name}.md').write_text(text)
    listed = {n for names in groups.values() for n in names}
    if missing := set(pages.values()) - {'index'} - listed:
        raise SystemExit(f'tools/build_docs.py: name these pages in `groups`: {missing}')
    for m in modules:
        (build/f'source-{m}.md').write_text(f'# {files[m]}\n\n```{{literalinclude}} ../{files[m]}\n:language: '
                                            f'python\n:linenos:\n```\n')
    (build/'source.md').write_text('# source code\n\n```{toctree}\n'
                                   + '\n'.join(f'source-{m}' for m in modules) + '\n```\n')
    (build/'reference.md').write_text(to_source(reference(), texts))
    (build/'benchmarks.md').write_text(benchmarks(root/'benchmarks', build))
    for name in ('CHANGELOG', 'CONTRIBUTING'): shutil.copy(root/f'{name}.md', build/f'{name.lower()}.md')
    (build/'static'/'lrx.css').write_text(css)
    (build/'static'/'favicon.svg').write_text(favicon)
    (build/'conf.py').write_text(conf.format(version=cfg.version, **ini.d))
    subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html', build, site], check=True)
    for p in build.glob('*.md'):
        (site/f'{p.stem}.html.md').write_text(re.sub(r'\]\(images/\w+/([^)]+)\)', r'](_images/\1)', p.read_text()))
    described = {name: front_matter(p).get('description', '') for p,name in pages.items()}
    links = ''.join(f'\n## {title}\n\n' + ''.join(f'- [{n}]({n}.html.md): {described.get(n, "")}'.rstrip(': ') + '\n'
                                                  for n in names) for title,names in groups.items())
    (site/'llms.txt').write_text(f'# {ini.docs_title}\n\n> {cfg.description}\n' + links)
    print(f'{len(notebooks)} pages in {site.relative_to(root)}/')

if __name__=='__main__': main()
