"""What every benchmark needs: quiet learners, paired times, a word on the machine, a place for the results."""
import json, os, platform, statistics, time
from pathlib import Path

import torch
from fastai.callback.progress import ProgressCallback
from fastcore.basics import noop
from scipy.stats import binom

results = Path(__file__).parent/'results'

def machine():
    return f'{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, CPU'

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
    "Median of the paired ratios a/b with its 90 % interval (the whole range where rounds are few)."
    rs = sorted(x/y for x,y in zip(a, b))
    n,k = len(rs), int(binom.ppf(0.05, len(rs), 0.5))
    return dict(median=statistics.median(rs), low=rs[max(k-1, 0)], high=rs[min(n-k, n-1)], rounds=n)

def publish(name:str, res:dict, page:str, indent=1):
    "Keep the numbers and the page, and print the page."
    results.mkdir(exist_ok=True)
    (results/f'{name}.json').write_text(json.dumps(res, indent=indent)+'\n')
    (results/f'{name}.md').write_text(page)
    print(page)
