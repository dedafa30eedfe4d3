"""What every benchmark needs: quiet learners, paired times, the machine's name; its report, plots and stored numbers.

Each `bench_*.py` measures and writes results/NAME.json, .md and .png. With `--report` it reads results/NAME.json
instead, and only writes the report and its plots again."""
import json, os, platform, statistics, sys, time
from pathlib import Path

import numpy as np, torch
from fastai.callback.progress import ProgressCallback
from fastcore.basics import noop
from scipy.stats import binom

results = Path(__file__).parent/'results'

def machine():
    return (f'{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, '
            f'torch {torch.__version__}, CPU')

def quiet(learn):
    "The same learner without progress bars and tables."
    learn.remove_cbs(ProgressCallback)
    learn.logger = noop
    return learn

def timed(f):
    start = time.perf_counter()
    f()
    return time.perf_counter()-start

def paired(parts:dict, rounds:int, timed=timed):
    "Seconds of each part in each round, as `timed` takes them, the parts in turn; the first round does not count."
    seconds = {k:[] for k in parts}
    for r in range(rounds+1):
        for k,f in parts.items():
            s = timed(f)
            if r: seconds[k].append(s)
    return seconds

def ratio(a, b):
    "Median of the paired ratios a/b with its 90% interval (the whole range where rounds are few)."
    rs = sorted(x/y for x,y in zip(a, b))
    n,k = len(rs), int(binom.ppf(0.05, len(rs), 0.5))
    return dict(median=statistics.median(rs), low=rs[max(k-1, 0)], high=rs[min(n-k, n-1)], rounds=n)

# --- reports ---------------------------------------------------------------------------------------------------
def stored(name:str):
    "The numbers of an earlier run if the command line has `--report`, else None."
    if '--report' not in sys.argv: return None
    sys.argv.remove('--report')
    return json.loads((results/f'{name}.json').read_text())

def table(columns, rows)->str:
    "A table; the first column names the rows."
    return '\n'.join('| ' + ' | '.join(map(str, row)) + ' |' for row in [columns, ['---']*len(columns), *rows])

def picture(name, alt): return f'![{alt}]({name}.png)'

def span(values, form='.1f')->str:
    "The range of these numbers."
    return f'{min(values):{form}} to {max(values):{form}}' if values else '(not measured)'

def page(name, question, lead, conclusion, *parts)->str:
    "A report: its question, what was measured and on what, the conclusion, and parts of Markdown."
    again = (f'Numbers: `benchmarks/results/{name}.json`. Protocol: `benchmarks/bench_{name}.py`, which measures all '
             'of this again; with `--report` it only writes this report from the stored numbers.')
    return '\n\n'.join([f'# {question}', lead, f'**Conclusion:** {conclusion}', *parts, again]) + '\n'

def publish(name:str, res:dict, page:str, figs:dict, indent=1):
    "Keep the numbers, the page and its figures, and print the page."
    results.mkdir(exist_ok=True)
    (results/f'{name}.json').write_text(json.dumps(res, indent=indent)+'\n')
    (results/f'{name}.md').write_text(page)
    for k,fig in figs.items(): fig.savefig(results/f'{k}.png', dpi=110)
    print(page)

def draw_ratios(ax, found:dict, color='C0', shift=0., label=None):
    "Results of `ratio` from top to bottom, each with its interval; their names are the labels of the axis."
    mid,low,high = (np.array([r[k] for r in found.values()]) for k in ('median', 'low', 'high'))
    ax.errorbar(mid, np.arange(len(found))+shift, xerr=[mid-low, high-mid], fmt='o', ms=4, capsize=2, color=color,
                label=label)
    ax.set(yticks=range(len(found)), yticklabels=list(found), ylim=(len(found)-0.5, -0.5))
