"""Does `fine_tune_discriminative` work without tuning its rate? Compared with stock's `fine_tune` and other common
ways.

Protocol, fixed before any result:
- Tasks: the fifteen of `fine_tune_tasks.py`, six of them with ImageNet weights. Defaults are chosen on seven; the other
  eight are held out and looked at once, with the chosen defaults.
- A run: five epochs over the same labelled examples for all ways with the same seed; 5 seeds, 3 with ImageNet weights.
  No validation during the run, no early stop. The result is the error at the end on 700 to 1000 other examples, the
  same for all seeds.
- Every way runs at six rates over a factor of 100: 4e-4, 1e-3, 2e-3 (stock's default), 5e-3, 1.2e-2, 4e-2; ours also at
  its default.
- Ways: ours with its defaults; stock's `fine_tune(4)`, one frozen epoch and four more, on stock's two groups (five for
  text); LP-FT, the head for an epoch at the rate, then everything at a tenth of it; everything from the start, with
  rates that fall by 2.6 per group ("full") or one rate for all.
- Added when the results of these were known: the head only, on activations of the pretrained body ("head only").
- Added after that: ours with `norm_eval=True` ("norm_eval"), at the six rates and at its default, on the eight tasks
  whose networks have BatchNorm. Its limit of 0.2% was chosen on the four of them that are not held out and on the same
  pictures in larger numbers (1000 to 6000), on a GPU. Goals on the other four, set before they were run: at its default
  never above the head alone, at the best of its six rates, by more than two standard errors; below ours at its default
  on at least three. The larger numbers of pictures are reported, too: at the defaults, the head alone at 5e-3.
- Ours with `Average()` at its default rate, to show what an average adds.
- Reported for each way and task: the error at the default; the error at its best rate; the tolerance, the mean error
  over the five rates from 4e-4 to 1.2e-2, a factor of 30; how far the worst of these five is above its own best; the
  factor of rates within 2 points of the best. Differences are means, paired by seed, with their standard error.
- Goals on the held-out tasks: ours at its default below stock at its best rate on three quarters of the tasks, and
  never above by more than two standard errors; ours from 4e-4 to 1.2e-2 never more than 3 points above its own best; a
  better tolerance than stock's on most tasks; with `base_lr=None` within 1 point of its best rate everywhere.
- Time: medians of an epoch of ours and of stock's over the same runs.

`python benchmarks/bench_fine_tune.py` writes results/fine_tune.{json,md,png}; `--part design` or `--part held-out`
trains some of the tasks. Each run trains once and is kept in `fine_tune_cells.jsonl`, in the folder that
`real_data.py` names. About three hours on 2 cores."""
import argparse, contextlib, io, json, os, time, warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

os.environ.setdefault('OMP_NUM_THREADS', '1')   # small models, one process per core
warnings.simplefilter('ignore')
import numpy as np, torch
from fine_tune_tasks import design, error, held_out, larger, make, tasks
from fastai.basics import *
from fastai_lrx.all import Average, discriminative_lrs
from fastai_lrx.core.plots import add_legend, new_axes
from measure import machine, page, picture, publish, stored, table
from real_data import cache_dir

epochs,rates = 5,(4e-4, 1e-3, 2e-3, 5e-3, 1.2e-2, 4e-2)
default,tolerated = 1e-2,rates[:5]

def stock(learn, lr): learn.fine_tune(epochs-1, lr)
def ours(learn, lr): learn.fine_tune_discriminative(epochs, lr)
def full(learn, lr, div=2.6):
    learn.unfreeze()
    learn.fit_one_cycle(epochs, discriminative_lrs(len(learn.opt.param_lists), lr, div))
def lp_ft(learn, lr):
    learn.fit_one_cycle(1, lr)
    learn.unfreeze()
    learn.fit_one_cycle(epochs-1, lr/10)
def head_only(learn, lr):
    with learn.precomputed(): learn.fit_one_cycle(epochs, lr)
def searched(learn, lr): learn.fine_tune_discriminative(epochs, None)
def norm_eval(learn, lr): learn.fine_tune_discriminative(epochs, lr, norm_eval=True)
def averaged(learn, lr): learn.fine_tune_discriminative(epochs, lr, cbs=Average())
at_one_rate = {'base_lr=None': searched, 'averaged': averaged}
ways = {'ours': ours, **at_one_rate, 'stock': stock, 'LP-FT': lp_ft, 'full': full, 'one rate': partial(full, div=1),
        'head only': head_only, 'norm_eval': norm_eval}

class EpochTimes(Callback):
    def before_fit(self): self.times = getattr(self, 'times', [])
    def before_epoch(self): self.start = time.perf_counter()
    def after_epoch(self): self.times.append(time.perf_counter()-self.start)

def cell(task, way, lr, seed):
    "The error that a way at a rate leads to."
    torch.set_num_threads(1)
    learn = make(task, seed, n_groups=2 if way in ('stock', 'LP-FT', 'head only') else 4)
    clock = EpochTimes()
    with contextlib.redirect_stdout(io.StringIO()), learn.added_cbs(clock): ways[way](learn, lr)
    return dict(task=task, way=way, lr=lr, seed=seed, error=error(learn), epoch_seconds=clock.times)

def key(c): return c['task'],c['way'],c['lr'],c['seed']

def kept_cells()->dict:
    "The cells that were trained before."
    path = cache_dir/'fine_tune_cells.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return {key(c): c for c in map(json.loads, lines)}

def train(wanted, n_processes=None):
    "Train the cells `wanted`, (task, way, rate, seed), that are not there, and keep them."
    done = kept_cells()
    todo = [o for o in wanted if o not in done]
    with ProcessPoolExecutor(n_processes or os.cpu_count()) as pool:
        for i,job in enumerate(as_completed([pool.submit(cell, *o) for o in todo])):
            with (cache_dir/'fine_tune_cells.jsonl').open('a') as f: print(json.dumps(job.result()), file=f)
            if i % 50 == 49: print(f'{i+1} of {len(todo)}', flush=True)

def wanted(names)->list:
    "All cells of the protocol, those of ours and stock's first."
    def fits(way, t): return way != 'norm_eval' or tasks[t].has_batchnorm
    grid = [(t, way, lr, seed) for way in ways if way not in at_one_rate for t in names if fits(way, t) for lr in rates
            for seed in tasks[t].seeds]
    first = ('ours', default),('averaged', default),('norm_eval', default),('base_lr=None', 0.)
    own = [(t, *o, seed) for t in names for o in first if fits(o[0], t) for seed in tasks[t].seeds]
    return own + grid

at_larger = {'ours': default, 'norm_eval': default, 'head only': 5e-3}

def larger_wanted()->list:
    "The cells with larger numbers of pictures."
    return [(t, *o, seed) for t in larger for o in at_larger.items() for seed in range(3)]

# --- what they say -------------------------------------------------------------------------------------------------------------
class Errors:
    "The errors of a way on a task, of those rates at which all its seeds were trained."
    def __init__(self, cells, task, way):
        self.by_lr = {}
        for c in cells:
            if (c['task'], c['way']) == (task, way): self.by_lr.setdefault(c['lr'], {})[c['seed']] = c['error']
        n = max(map(len, self.by_lr.values()), default=0)
        self.by_lr = {lr: seeds for lr,seeds in sorted(self.by_lr.items()) if len(seeds) == n}
    def __bool__(self): return set(rates) <= set(self.by_lr)
    def mean(self, lr): return float(np.mean(list(self.by_lr[lr].values())))
    @property
    def best_lr(self): return min(rates, key=self.mean)
    @property
    def best(self): return self.mean(self.best_lr)
    @property
    def tolerance(self): return float(np.mean([self.mean(lr) for lr in tolerated]))
    @property
    def excess(self): return max(self.mean(lr) for lr in tolerated) - self.best
    @property
    def width(self):
        "The factor of neighbouring rates around the best one that are within 2 points of it."
        good = [self.mean(lr) <= self.best+0.02 for lr in rates]
        i = j = rates.index(self.best_lr)
        while i and good[i-1]: i -= 1
        while j < len(rates)-1 and good[j+1]: j += 1
        return rates[j]/rates[i]
    def minus(self, lr, other, other_lr)->tuple:
        "The mean difference to another way, paired by seed, and its standard error."
        a,b = self.by_lr[lr],other.by_lr[other_lr]
        d = np.array([a[s]-b[s] for s in a.keys() & b.keys()])
        return float(d.mean()),float(d.std(ddof=1)/len(d)**0.5) if len(d) > 1 else np.nan

def percent(x): return f'{100*x:.1f}'
def signed(d):
    "A difference, with its standard error if there is one."
    return f'{100*d[0]:+.1f}' + ('' if np.isnan(d[1]) else f' ± {100*d[1]:.1f}')

searched_column = '`base_lr=None` minus ours at its best'

def row(cells, task)->dict:
    "What a task says of ours and stock's."
    mine,theirs,asked = (Errors(cells, task, way) for way in ('ours', 'stock', 'base_lr=None'))
    at_default,best = mine.mean(default),mine.minus(default, theirs, theirs.best_lr)
    searched = asked.minus(0., mine, mine.best_lr) if asked.by_lr else (np.nan, np.nan)
    return {'ours at 1e-2': percent(at_default), 'stock at 2e-3': percent(theirs.mean(2e-3)),
            'stock at its best': percent(theirs.best), 'ours at 1e-2 minus stock at its best': signed(best),
            'ours at its best': percent(mine.best), 'tolerance: ours': percent(mine.tolerance),
            'tolerance: stock': percent(theirs.tolerance), 'worst minus best: ours': percent(mine.excess),
            'worst minus best: stock': percent(theirs.excess), 'width: ours': f'{mine.width:.0f}',
            'width: stock': f'{theirs.width:.0f}', searched_column: signed(searched) if asked.by_lr else '',
            'below': best[0] < 0, 'above': best[0] > 2*best[1], 'within_3': mine.excess <= 0.03, 'tolerant': mine.tolerance < theirs.tolerance,
            'asked_within_1': searched[0] <= 0.01}

def verdict(found:list)->str:
    "How the goals are met."
    n = len(found)
    count = lambda k: sum(r[k] for r in found)
    asked = [r for r in found if r[searched_column]]
    return (f"On {count('below')} of these {n} tasks ours at its default has a lower error than stock at its best "
            f"rate, and on {count('above') or 'none'} a higher one by more than two standard errors. From 4e-4 to 1.2e-2 it "
            f"stays within 3 points of its own best on {count('within_3')}; its tolerance is better than stock's on "
            f"{count('tolerant')}; with `base_lr=None` it is within 1 point of its best rate on "
            f"{sum(r['asked_within_1'] for r in asked)} of {len(asked)}.")

def judged(found:dict)->list:
    "What these tasks show, in a few sentences and a table."
    columns = [k for k,v in next(iter(found.values())).items() if isinstance(v, str)]
    return [verdict(list(found.values())),
            table(['', *columns], [[name, *(r[k] for k in columns)] for name,r in found.items()])]

def counted(names)->str: return '; '.join(f'{k} on {n}' for k,n in Counter(names).most_common())

def others(cells)->list:
    "The best error and the tolerance of every way on the tasks where more were trained than ours and stock's."
    found = {name: {way: e for way in ways if (e := Errors(cells, name, way))} for name in tasks}
    if not (found := {name: errors for name,errors in found.items() if len(errors) > 2}): return []
    shown = [w for w in ways if any(w in e for e in found.values())]
    def lowest(key): return counted(min(e, key=lambda way: getattr(e[way], key)) for e in found.values())
    def entry(e): return f'{percent(e.best)} ({percent(e.tolerance)})' if e else ''
    return ['## Other ways',
            f"The way with the lowest error, each at its best rate, on these {len(found)} tasks: {lowest('best')}. The "
            f"way with the best tolerance: {lowest('tolerance')}. LP-FT trains the head for an epoch, then everything "
            'at a tenth of the rate; "full" trains everything from the start, with rates that fall by 2.6 per group; '
            '"head only" leaves the body as it is, and costs seconds with `precomputed()`. It was added after the other '
            'results were known.',
            'Error at the best of six rates, and in brackets the tolerance.',
            table(['', *shown], [[name, *(entry(e.get(w)) for w in shown)] for name,e in found.items()])]

def gains(cells)->dict:
    "Ours at its default, alone and averaged, on the tasks where both were run: errors, and the difference."
    found = {name: (Errors(cells, name, 'ours'), Errors(cells, name, 'averaged')) for name in tasks}
    return {name: (mine.mean(default), mean.mean(default), mean.minus(default, mine, default))
            for name,(mine,mean) in found.items() if mean.by_lr}

def average_lines(cells)->list:
    "What `Average()` adds at the default rate."
    if not (found := gains(cells)): return []
    better,worse = (sum(sign*d > 2*se for *_,(d,se) in found.values()) for sign in (-1, 1))
    return ['## With an average',
            f'Adding `Average()` at the default rate is better by more than two standard errors on {better} of '
            f'{len(found)} tasks, and worse on {worse or "none"}.',
            table(['', 'alone', 'averaged', 'difference'],
                  [[name, percent(a), percent(b), signed(d)] for name,(a,b,d) in found.items()])]

def norm_eval_lines(cells)->list:
    "What `norm_eval=True` changes at the default rate, on the tasks with BatchNorm and with more pictures."
    found = {name: [Errors(cells, name, way) for way in ('ours', 'norm_eval', 'head only')] for name in tasks
             if tasks[name].has_batchnorm}
    found = {name: e for name,e in found.items() if all(o.by_lr for o in e)}
    if not found: return []
    rows = {name: (ours.mean(default), fixed.mean(default), fixed.minus(default, ours, default), head.best,
                   fixed.minus(default, head, head.best_lr)) for name,(ours,fixed,head) in found.items()}
    def entries(r): return [f(v) for f,v in zip((percent, percent, signed, percent, signed), r)]
    below,above = ([name for name,r in rows.items() if good(r)] for good in
                   (lambda r: r[2][0] < 0, lambda r: r[4][0] > 2*r[4][1]))
    held = [name for name in rows if name in held_out]
    def of(names): return f'{len(names)} of {len(rows)} tasks ({sum(n in held for n in names)} of {len(held)} held out)'
    goals = sum(n in held for n in below) >= 3,not any(n in held for n in above)
    more = [[name, *(percent(Errors(cells, name, way).mean(lr)) for way,lr in at_larger.items())] for name in larger]
    return ['## Norm layers in evaluation mode',
            'With `norm_eval=True` the BatchNorm layers of the body keep the statistics of pretraining, and the limit of a '
            f"layer's rate is 0.2% of its weights. At the default rate this lowers the error on {of(below)}. It is above "
            f"the head alone, at the best of six rates, by more than two standard errors on {of(above)}. Of the two "
            f"goals on the held-out tasks, a lower error than ours at its default on at least three is "
            f"{'met' if goals[0] else '**not met**'}, and never clearly above the head alone is "
            f"{'met' if goals[1] else '**not met**'}. On the two small CNNs the limit decides at all rates, so these runs "
            'differ in the order of their batches only.',
            table(['', 'ours', 'norm_eval', 'norm_eval minus ours', 'head only at its best', 'norm_eval minus head only'],
                  [[name, *entries(r)] for name,r in rows.items()]),
            'With larger numbers of pictures of 64 pixels (3 seeds, 2 of 6000; on an H200; used to choose the limit). The more '
            'pictures, the better the default: use `norm_eval=True` up to about 1000.',
            table(['', 'ours', 'norm_eval', 'head only at 5e-3'], more)]

def epoch_time(cells)->float:
    "The median of ours over stock's, of epochs of the same task, seed and rate that train all, on the same machine."
    by_key = {key(c): c for c in cells}
    pairs = [(c, by_key.get((c['task'], 'stock', c['lr'], c['seed']))) for c in cells if c['way'] == 'ours']
    return float(np.median([np.median(a['epoch_seconds'][1:])/np.median(b['epoch_seconds'][1:]) for a,b in pairs
                            if b and a.get('device') == b.get('device')]))

def draw_rates(cells):
    "Error against rate, a panel for each task."
    fig,axes = new_axes(5, 3, size=(2.66, 1.7))
    for ax,name in zip(axes.flat, tasks):
        for (way,at),color in zip({'ours': default, 'ours, norm_eval': default, 'stock': 2e-3}.items(), ('C0', 'C2', 'C1')):
            if not (errors := Errors(cells, name, way.split()[-1])): continue
            ax.semilogx(rates, [100*errors.mean(lr) for lr in rates], marker='o', ms=3, color=color, label=way)
            ax.plot(at, 100*errors.mean(at), marker='*', ms=11, color=color)
        ax.set_title(name + ' (held out)'*(name in held_out), fontsize=7.5)
    add_legend(axes.flat[0], title='star: default', title_fontsize='x-small', fontsize='x-small')
    fig.supxlabel('learning rate', fontsize='medium')
    fig.supylabel('error, %', fontsize='medium')
    return fig

def draw_tasks(cells):
    "Errors at the default and at the best rate, tolerance, and what an average adds, a line for each task."
    fig,axes = new_axes(1, 3, size=(2.66, 5))
    names,found = [*held_out, *design],gains(cells)
    looks = {way: dict(marker=m, color=c) for way,m,c in
             (('full', 'x', '0.7'), ('LP-FT', 'x', 'C4'), ('head only', '+', 'C3'), ('stock', '^', 'C1'), ('norm_eval', 's', 'k'), ('ours', 'o', 'C0'))}
    for i,name in enumerate(names):
        for way,look in looks.items():
            if not (errors := Errors(cells, name, way)): continue
            values = errors.mean(default) if way in ('ours', 'norm_eval') else errors.best,errors.tolerance
            for ax,v in zip(axes, values): ax.plot(100*v, i, ls='none', ms=5, label=way, **look)
        if name in found:
            d,se = found[name][2]
            axes[2].errorbar(100*d, i, xerr=200*se, fmt='o', ms=4, capsize=2, color='C2')
    handles,labels = axes[0].get_legend_handles_labels()
    by_way = dict(zip(labels, handles))                              # one entry for each way
    fig.legend(by_way.values(), by_way.keys(), loc='outside upper center', ncols=len(looks), fontsize='small', frameon=False)
    axes[2].axvline(0, color='0.5', lw=0.8, ls=':')
    labels = ('error, %: ours and norm_eval at\ntheir default, others at their best',
              'error, %: mean over rates\n4e-4 to 1.2e-2 (tolerance)',
              'points: Average() minus\nalone, ± 2 standard errors')
    for ax,label in zip(axes, labels):
        ax.axhline(len(held_out)-0.5, color='0.5', lw=0.8)
        ax.set(yticks=range(len(names)), ylim=(len(names)-0.5, -0.5),
               yticklabels=[f"{name}{' (held out)'*(name in held_out)}" for name in names])
        ax.set_xlabel(label, fontsize='small')
        ax.tick_params(labelsize='small')
        ax.label_outer()
    return fig

def head_alone(cells)->str:
    "On how many tasks with ImageNet weights training only the head is better than ours, and how far."
    pairs = [(Errors(cells, name, 'head only'), Errors(cells, name, 'ours')) for name in tasks if tasks[name].is_real]
    ahead = [mine.mean(default)-head.best for head,mine in pairs if head]
    better = [a for a in ahead if a > 0]
    return (f" With ImageNet weights and 80 to 400 pictures, training only the head, at the best of six rates, is better "
            f"on {len(better)} of {len(ahead)} tasks, by {percent(min(better))} to {percent(max(better))} points; "
            "`norm_eval=True` makes up for most of that, or all of it." if better else '')

def report(res)->str:
    "The results as a page."
    cells = res['cells']
    found = {name: row(cells, name) for name in tasks}
    count = lambda k: sum(found[name][k] for name in held_out)
    return page('fine_tune', 'Does `fine_tune_discriminative` work without tuning its rate?',
        "Five epochs on fifteen transfer tasks: ours is `fine_tune_discriminative(5)`, stock is `fine_tune(4)`, each "
        "at its default and at six rates. Errors in percent on 700 to 1000 other pictures or texts, means of 5 seeds "
        f"(3 with ImageNet weights, whose six rates were run on {res['real_on']}; all else on {res['machine']}).",
        f"At its default ours has a lower error than stock at the best of six rates on {count('below')} of "
        f"{len(held_out)} held-out tasks, and on {count('above') or 'none'} a higher one by more than two standard errors. "
        "Tuning still pays: over a factor of 30 in the rate, the error stays within 3 points of its best on only "
        f"{count('within_3')} of them." + head_alone(cells),
        picture('fine_tune_tasks', 'For each of fifteen tasks: error of ours at its default and of the other ways at '
                                   'their best rate, tolerance of all, and the change that Average() brings'),
        'The same at every rate; stars mark the defaults:',
        picture('fine_tune', 'Error against rate on fifteen tasks, ours, with norm_eval where there is BatchNorm, and stock'),
        'Tolerance is the mean error over five rates from 4e-4 to 1.2e-2, "worst" the highest error among them, '
        'width the factor of neighboring rates within 2 points of the best. `base_lr=None` is compared, where it was '
        'run, with runs of the same seeds. Differences are paired by seed, ± their standard error.',
        '## Held-out tasks', *judged({name: found[name] for name in held_out}),
        '## Tasks on which the defaults were chosen', *judged({name: found[name] for name in design}),
        *others(cells), *norm_eval_lines(cells), *average_lines(cells),
        '## Time',
        f"An epoch of ours takes {res['time']:.2f} times as long as one of stock's (median over all runs).")

def measure():
    parser = argparse.ArgumentParser()
    parser.add_argument('--part', choices=('design', 'held-out'))
    parser.add_argument('--no-training', action='store_true', help='report the cells that are there')
    args = parser.parse_args()
    names = {'design': design, 'held-out': held_out}.get(args.part, tasks)
    if not args.no_training: train(wanted(names))
    kept = kept_cells()
    cells = [kept[o] for o in wanted(tasks)+larger_wanted() if o in kept]
    devices = {c.get('device', 'the same machine') for c in cells
               if c['task'] in tasks and tasks[c['task']].is_real and c['way'] != 'base_lr=None' and c['lr'] != default}
    return dict(machine=machine(), real_on=' and '.join(sorted(devices)), time=epoch_time(cells), cells=cells)

def main():
    res = stored('fine_tune') or measure()
    figs = dict(fine_tune=draw_rates(res['cells']), fine_tune_tasks=draw_tasks(res['cells']))
    publish('fine_tune', res, report(res), figs, indent=None)

if __name__=='__main__': main()
