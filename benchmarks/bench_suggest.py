"""How good is a suggested learning rate? The suggestions of many rules, compared with the rates that train best.

Protocol, fixed before any rule was tried:
- Tasks: those of `suggest_tasks.py`. A third is held out: rules are designed on the others and judged once, at the end.
- Truth: each task is trained by `fit_one_cycle` (fastai's defaults) with 3 seeds at each of 19 rates, 1e-5 to 10, three
  per decade. L(lr) is the mean over the seeds of the final validation loss, capped at the loss without training, and
  linear between the rates, over log lr. Outside the grid L is constant.
- Regret of a rate: (L(lr) - lowest L) / (L without training - lowest L), from 0, the best rate, to 1, no better than no
  training. No suggestion counts as 1.
- Distance: how far a rate is, in powers of ten, from the nearest one with L within 5% of the lowest.
- Spread: the largest over the smallest suggestion of 8 seeds (weights and order of batches).
- The rules of other libraries read the same first sweep as ours: fastai's four, through `lr_find`, as in stock;
  Lightning's (steepest descent of the smoothed loss, over batches in version 2.5, over the rate in 2.6; without the
  first 10 and the last batch), torch_lr_finder's (its own smoothing and end, steepest descent over batches, without the
  first 10 and the last 5) and Smith's (a tenth of the rate where the loss is lowest, on the zero-phase smoothed curve).
  Watched validation items and a second, longer sweep are ours alone; so there are rows for ours without the first and
  with the second, and for the best other rule on the second sweep.
- Rates per layer group: on four pretrained tasks, 5 seeds, the final loss with one rate for all, with two rules of
  thumb, and with `lr_find_groups`.

`python benchmarks/bench_suggest.py` trains what is missing from the truth in results/, tries every rule, and writes
results/suggest.{json,md,png}; `--fresh` trains everything again, `--part design` leaves out the held-out tasks."""
import argparse, json, os, statistics, textwrap, warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')   # tiny models, one process per core
warnings.simplefilter('ignore')
import numpy as np, torch
from measure import machine, page, picture, publish, results, stored, table
from suggest_tasks import design, every, held_out, make, pretrained, tasks
from fastai.basics import *
from fastai_lrx.all import *
from fastai_lrx.find.finder import stock_end
from fastai_lrx.core.plots import new_axes
from fastai_lrx.core.storage import atomic_write

grid = 10**(np.arange(19)/3-5)
truth_seeds,spread_seeds = range(3),range(8)

# --- truth -------------------------------------------------------------------------------------------------------------------
def final_loss(name, seed, lr):
    "The validation loss after training a task at `lr`; without training if that is None."
    learn = make(name, seed)
    if lr is None: return learn.validate()[0]
    with learn.no_logging(): learn.fit_one_cycle(every[name][1], lr)
    return learn.recorder.values[-1][-1]

def cell(name, seed):
    "What every rate leads to, from one seed."
    torch.set_num_threads(1)
    number = lambda loss: float(f'{loss:.6g}') if np.isfinite(loss) else None
    return dict(untrained=number(final_loss(name, seed, None)),
                losses=[number(final_loss(name, seed, lr)) for lr in grid.tolist()])

def save(path, res):
    with atomic_write(path) as tmp: tmp.write_text(json.dumps(res)+'\n')

def cached_cells(path, names, cell, fresh:bool=False):
    "What `cell(name, seed)` says of each task and seed; what `path` lacks is trained and added to it."
    res = {} if fresh or not path.exists() else json.loads(path.read_text())
    todo = [(name, seed) for name in names for seed in truth_seeds if str(seed) not in res.get(name, {})]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = {pool.submit(cell, *o): o for o in todo}
        for job in as_completed(jobs):
            name,seed = jobs[job]
            res.setdefault(name, {})[str(seed)] = job.result()
            save(path, res)
            print(f'trained: {name}, seed {seed}', flush=True)
    return res

def truth(fresh:bool=False, path=results/'suggest_truth.json'):
    "What each rate leads to on every task."
    res = cached_cells(path, tasks, cell, fresh)
    return {name: Truth(list(res[name].values()), grid) for name in tasks}

class Truth:
    "What final loss each rate leads to on a task."
    def __init__(self, cells, grid):
        self.grid = grid
        self.untrained = float(np.mean([c['untrained'] for c in cells]))
        losses = np.array([[np.inf if o is None else o for o in c['losses']] for c in cells])
        self.losses = np.minimum(losses, [[c['untrained']] for c in cells]).mean(0)
        self.best,self.best_lr = float(self.losses.min()),float(grid[self.losses.argmin()])
    def loss(self, lr): return np.interp(np.log10(lr), np.log10(self.grid), self.losses)
    def regret(self, lr):
        if not (np.isfinite(lr) and lr > 0): return 1.
        return float(np.clip((self.loss(lr)-self.best)/(self.untrained-self.best), 0, 1))
    def ratio(self, lr): return float(self.loss(lr)/self.best) if np.isfinite(lr) and lr > 0 else np.nan
    def distance(self, lr):
        if not (np.isfinite(lr) and lr > 0): return np.inf
        fine = np.linspace(-5, 1, 3001)
        good = fine[self.loss(10**fine) <= self.best + 0.05*abs(self.best)]
        return float(np.abs(good-np.log10(lr)).min())

# --- rules -------------------------------------------------------------------------------------------------------------------
def lightning(curve, over_rate=False):
    part = slice(10, stock_end(curve)-1)   # its smoothing and its end are fastai's
    losses,lrs = curve.smooth_losses[part],curve.lrs[part]
    ok = np.isfinite(losses)
    return lrs[ok][np.gradient(losses[ok], *([lrs[ok]] if over_rate else [])).argmin()] if ok.sum() > 1 else np.nan

def torch_lr_finder(curve):
    losses = []
    for loss in curve.losses:
        losses.append(0.05*loss + 0.95*losses[-1] if losses else loss)
        if losses[-1] > 5*min(losses): break
    losses = np.array(losses)[10:-5]
    return curve.lrs[10:][np.gradient(losses).argmin()] if len(losses) > 1 else np.nan

def smith(curve): return lowest(curve)/10

stock = 'valley','slide','minimum','steep'
peers = {'lightning 2.5': lightning, 'lightning 2.6': partial(lightning, over_rate=True),
         'torch_lr_finder': torch_lr_finder, 'smith': smith}
rules = 'lr','lr, watch=False','lr, extend=True',*stock,*peers,'torch_lr_finder, second sweep'

def ask(name, seed):
    "The suggestions of all rules for a task, and how many batches they took."
    torch.set_num_threads(1)
    learn = make(name, seed)
    res = learn.lr_find(show_plot=False)
    first = res.sweeps[0][0]
    row = {k: float(v) for k,v in zip(res._fields, res)} | {k: float(f(first)) for k,f in peers.items()}
    longer = learn.lr_find(show_plot=False, extend=True)
    row |= {'lr, watch=False': halfway(first), 'lr, extend=True': longer.lr,
            'torch_lr_finder, second sweep': float(torch_lr_finder(longer.curve))}
    return row | dict(trust=res.trust, looks=len(longer.sweeps[0]))

def ask_all(names):
    "The answers of all rules, for each task and seed."
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = {(name, seed): pool.submit(ask, name, seed) for name in names for seed in spread_seeds}
        return {name: [jobs[name, seed].result() for seed in spread_seeds] for name in names}

# --- rates per layer group ---------------------------------------------------------------------------------------------------
def group_losses(name, seed):
    "Final validation losses of a pretrained task with rates chosen in different ways, and the rates found by group."
    torch.set_num_threads(1)
    learn = make(name, seed)
    lr = learn.lr_find(show_plot=False, suggest_funcs='lr').lr
    found = learn.lr_find_groups(show_plot=False)
    ways = {'one rate': lr, 'slice(lr/100, lr)': slice(lr/100, lr), '2.6 per group': [lr/2.6**2, lr/2.6, lr],
            'lr_find_groups': list(found)}
    return dict(losses={way: final_loss(name, seed, lrs) for way,lrs in ways.items()}, lr=lr, groups=list(found))

def compare_groups(seeds=range(5)):
    "`group_losses` of all pretrained tasks and seeds."
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = {name: [pool.submit(group_losses, name, seed) for seed in seeds] for name in pretrained}
        return {name: [j.result() for j in js] for name,js in jobs.items()}

# --- results -----------------------------------------------------------------------------------------------------------------
def judge(truths, answers):
    "Regret, distance and spread of every rule on every task."
    res = {}
    for name,rows in answers.items():
        t,asked = truths[name],rows[:len(truth_seeds)]
        res[name] = {rule: dict(regret=[t.regret(r[rule]) for r in asked],
                                distance=[t.distance(r[rule]) for r in asked],
                                spread=spread([r[rule] for r in rows if rule in r])) for rule in rules}
    return res

def spread(lrs): return float(np.nanmax(lrs)/np.nanmin(lrs))

def summary(judged, names):
    "For each rule over these tasks: mean, 90th percentile and worst regret, median distance, median spread."
    res = {}
    for rule in judged[names[0]]:
        regrets = [r for n in names for r in judged[n][rule]['regret']]
        res[rule] = dict(mean=np.mean(regrets), p90=np.quantile(regrets, 0.9), worst=max(regrets),
                         distance=np.median([d for n in names for d in judged[n][rule]['distance']]),
                         spread=np.median([judged[n][rule]['spread'] for n in names]))
    return res

explained = """*Distance* is that from the suggested rate to the nearest with a loss within 5% of the lowest, in powers of ten. \
*Spread* is the highest suggestion of 8 seeds over the lowest. The rules:

- `lr`: ours. `watch=False` does without watched validation items, `extend=True` allows a second, longer sweep.
- `valley`, `slide`, `minimum`, `steep`: fastai's.
- lightning: PyTorch Lightning's, the steepest descent of the smoothed loss over batches (2.5) or over the rate (2.6).
- torch_lr_finder: the rule of the package torch-lr-finder, the steepest descent over batches, with its own smoothing.
- torch_lr_finder, second sweep: the same on the last sweep of `extend=True`.
- smith: a tenth of the rate where the loss is lowest, like `minimum`, but on a curve smoothed without delay.

Names of tasks:

- 4x: four times as many epochs.
- BN: BatchNorm.
- whole pretrained: a model pretrained on other classes; all layers train.
- frozen body: a model pretrained on other classes; only the head trains.
- raw targets: the targets are not scaled, so the losses are in the thousands.
- likelihood, below zero: the loss, a negative log likelihood, can be negative."""

one_sweep,second_sweep = ('lr', *stock, *peers),('lr, extend=True', 'torch_lr_finder, second sweep')

def parts_of(judged)->dict:
    "The names of all tasks, of those used for design, and of those held out."
    return {'tasks in all': list(judged), 'tasks used to design the rule': [n for n in judged if n in design],
            'held-out tasks': [n for n in judged if n in held_out]}

def part_lines(title, names, judged)->list:
    "A section about these tasks."
    found = summary(judged, names)
    others = sorted(one_sweep[1:], key=lambda k: found[k]['mean'])
    return [f'## {len(names)} {title}',
            f"`lr` has a mean regret of {found['lr']['mean']:.3f}. The best other rules on the same sweep are "
            + ' and '.join(f"`{k}` with {found[k]['mean']:.3f}" for k in others[:2]) + '. With a second '
            + 'sweep, `lr` (`extend=True`) has {:.3f} and `torch_lr_finder` {:.3f}.'.format(
                *(found[k]['mean'] for k in second_sweep)),
            table(['rule', 'mean regret', '90th percentile', 'worst', 'distance (median, powers of ten)',
                   'spread over 8 seeds (median)'],
                  [[rule, *(f'{s[k]:.3f}' for k in ('mean', 'p90', 'worst')), f"{s['distance']:.2f}",
                    f"{s['spread']:.1f}x"] for rule,s in found.items()])]

def task_lines(judged, answers)->list:
    "A section with all tasks."
    far = [name for name,row in judged.items() if np.mean(row['lr']['regret']) > 0.1]
    def line(name, row):
        lrs = [r['lr'] for r in answers[name]]
        return [name + ' (held out)'*(name in held_out), *(f"{np.mean(v['regret']):.3f}" for v in row.values()),
                f'{min(lrs):.1e} to {max(lrs):.1e}', f"{sum(r['looks']-1 for r in answers[name])} of {len(lrs)}"]
    cases = [(r['trust'], regret) for name,row in judged.items()
             for r,regret in zip(answers[name], row['lr']['regret'])]
    ok = [regret for trust,regret in cases if trust=='ok']
    return ['## Task by task',
            f"The mean regret of `lr` is above 0.1 on {len(far)} of {len(judged)} tasks: {'; '.join(far)}.",
            picture('suggest_tasks', 'Final validation loss against the rate, a panel for each task; dots are the '
                                     'rates that valley, minimum and lr suggest from 8 seeds, dotted lines the loss '
                                     'without training'),
            'Mean regret; the held-out tasks come last.',
            table(['task', *rules, 'rates suggested by `lr`', 'second sweeps with `extend=True`'],
                  [line(name, row) for name,row in judged.items()]),
            "A sweep for `lr` takes as many batches as stock's, and a quarter more time because it also measures the "
            "watched items (`knowing.md`); `extend=True` takes up to four times as many batches. `lr_find` says 'ok' in "
            f"{len(ok)} of {len(cases)} cases ({len(judged)} tasks, {len(truth_seeds)} seeds), and "
            f"{sum(r < 0.1 for r in ok)} of these have a regret below 0.1."]

def group_means(groups)->dict:
    "Mean final loss of each way on each task."
    return {name: {way: np.mean([r['losses'][way] for r in rows]) for way in rows[0]['losses']}
            for name,rows in groups.items()}

def group_lines(groups)->list:
    "A section about rates per layer group."
    means = group_means(groups)
    best = Counter(min(m, key=m.get) for m in means.values()).most_common()
    def line(name, rows):
        wins = Counter(min(r['losses'], key=r['losses'].get) for r in rows)
        return [name, *(f'{loss:.4f} ({wins[way]})' for way,loss in means[name].items()),
                ', '.join(f'{lr:.1e}' for lr in np.median([r['groups'] for r in rows], axis=0))]
    return ['## Rates per layer group',
            f"Each of the {len(best)} ways has the lowest mean loss on one of the {len(groups)} pretrained tasks."
            if len(best) == len(groups) == len(next(iter(means.values()))) else
            f"The way with the lowest mean loss on {len(groups)} pretrained tasks: "
            f"{'; '.join(f'{way} on {n}' for way,n in best)}.",
            f"Final validation loss, mean of {len(next(iter(groups.values())))} seeds; in brackets, with how many seeds "
            "it was the lowest of the four. A way can have the lowest mean and be lowest with no single seed.",
            table(['task', *next(iter(means.values())), 'rates found, median'], [line(*o) for o in groups.items()])]

def report(res):
    "The results as a page."
    judged,answers,parts = res['judged'],res['answers'],parts_of(res['judged'])
    lines = [o for title,names in parts.items() if names for o in part_lines(title, names, judged)]
    lines += task_lines(judged, answers) + (group_lines(res['groups']) if 'groups' in res else [])
    n_design = len(parts['tasks used to design the rule'])
    kind = 'held-out tasks' if parts['held-out tasks'] else 'tasks used to design the rule'
    found = summary(judged, parts[kind])
    peer = min(one_sweep[1:], key=lambda k: found[k]['mean'])
    return page('suggest', 'How good is a suggested rate for a new model?',
        "Each rule reads a sweep and suggests a rate for `fit_one_cycle`. Its regret compares that rate with a grid of "
        f"rates on which the task was trained, with {len(truth_seeds)} seeds. There are {len(judged)} small tasks; "
        f"{n_design} of them were used to design the rule `lr`. Measured on {res['machine']}.",
        f"*Regret* is 0 for the best rate and 1 for a rate that is no better than no training. On {len(parts[kind])} "
        f"{kind} our rule, `lr`, has a mean regret of {found['lr']['mean']:.3f}. The best other rule on the same sweep, "
        f"`{peer}`, has {found[peer]['mean']:.3f}, and fastai's default, `valley`, has {found['valley']['mean']:.3f}.",
        picture('suggest', 'Mean regret and its 90th percentile for each rule, on held-out tasks and on those used '
                           'for design; and final losses of four ways to set rates per layer group'), explained, *lines)

def draw_regrets(ax, parts:dict):
    "Mean regret of each rule, with a line to its 90th percentile, by part; rules in the order of the first part."
    order = sorted(next(iter(parts.values())), key=lambda k: next(iter(parts.values()))[k]['mean'])
    for i,(label,found) in enumerate(parts.items()):
        ys = np.array([order.index(k) for k in found]) + 0.25*i - 0.12*(len(parts)-1)
        mean,p90 = (np.array([s[k] for s in found.values()]) for k in ('mean', 'p90'))
        ax.hlines(ys, mean, p90, color=f'C{i}', lw=1)
        ax.plot(mean, ys, 'o', ms=4, color=f'C{i}', label=label)
    ax.set(yticks=range(len(order)), yticklabels=[k.split(' (')[0] for k in order], ylim=(len(order)-0.5, -0.7),
           xlabel='regret: mean, and a line to the 90th percentile')
    ax.legend(frameon=False, fontsize='small', ncols=len(parts), loc='lower left', bbox_to_anchor=(0, 1))

def draw(res):
    "The regrets of all rules, and what the ways to set rates per layer group lead to."
    fig,(left,right) = new_axes(1, 2, size=(4, 4))
    parts = parts_of(res['judged'])
    draw_regrets(left, {'held-out tasks': summary(res['judged'], parts['held-out tasks']),
                        'design tasks': summary(res['judged'], parts['tasks used to design the rule'])})
    means = group_means(res['groups'])
    for i,way in enumerate(next(iter(means.values()))):
        over_best = [m[way]/min(m.values()) for m in means.values()]
        right.plot(over_best, np.arange(len(means))+0.15*i-0.2, 'o', ms=5, label=way)
    right.set(yticks=range(len(means)), yticklabels=[name.replace(' whole pretrained', ',\n') for name in means],
              ylim=(len(means)-0.5, -0.7), xlabel='final loss / lowest of the four')
    right.legend(frameon=False, fontsize='small', ncols=2, loc='lower left', bbox_to_anchor=(-0.1, 1),
                 columnspacing=0.8, handletextpad=0.2)
    return fig

def draw_tasks(truths, lrs_of, looks, held_out):
    "What each rate led to, task by task, and where the rules pointed."
    names = list(truths)
    fig,axes = new_axes(-(-len(names)//4), 4, size=(2, 1.6))
    for ax in axes.flat[len(names):]: ax.remove()
    for ax,(name,t) in zip(axes.flat, truths.items()):
        ax.plot(t.grid, t.losses, color='0.35', lw=1.2)
        for rule,look in looks.items():
            lrs = lrs_of(name, rule)
            ax.plot(lrs, [t.loss(lr) for lr in lrs], ls='none', ms=4, mec='white', mew=0.5, label=rule, **look)
        ax.axhline(t.untrained, color='0.6', lw=0.8, ls=':')
        ax.set_xscale('log')
        ax.set_title('\n'.join(textwrap.wrap(name, 28)) + '\n(held out)'*(name in held_out), fontsize='x-small')
        ax.tick_params(labelsize='x-small')
    axes.flat[0].legend(frameon=False, fontsize='xx-small')
    fig.supxlabel('learning rate', fontsize='small')
    fig.supylabel('final validation loss', fontsize='small')
    return fig

def measure():
    parser = argparse.ArgumentParser()
    parser.add_argument('--fresh', action='store_true', help='train everything again')
    parser.add_argument('--part', choices=['all','design'], default='all', help='which tasks to ask for')
    parser.add_argument('--truth', action='store_true', help='only train')
    args = parser.parse_args()
    truths = truth(args.fresh)
    if args.truth: return
    answers = ask_all(list(tasks if args.part=='all' else design))
    res = dict(machine=machine(), answers=answers, judged=judge(truths, answers))
    if args.part=='design': return print(report(res))
    return res | dict(groups=compare_groups())

def main():
    if not (res := stored('suggest') or measure()): return
    looks = {k: dict(marker='o', color=c) for k,c in dict(valley='C1', minimum='C4', lr='C3').items()}
    lrs_of = lambda name,rule: [r[rule] for r in res['answers'][name]]
    figs = dict(suggest=draw(res), suggest_tasks=draw_tasks(truth(), lrs_of, looks, held_out))
    publish('suggest', res, report(res), figs, indent=None)

if __name__=='__main__': main()
