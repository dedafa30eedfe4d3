"""A learning rate for a model that is pretrained or has trained before: which rule finds the best, at what cost?

Protocol, fixed before any rule was tried:
- Tasks: those of `knowing_tasks.py`, fourteen with such a model and two transformers from scratch. A third is held out.
- Truth: the planned fit (`fit_one_cycle` with the ratio of rates of its task) at 11 rates, two per decade, from 1e-5
  with Adam and from 1e-4 with SGD, 3 seeds. L(lr) is the mean over the seeds of the final validation loss, capped at
  the loss before the fit, and linear between the rates, over log lr. Outside the grid L is constant.
- Regret of a rate: (L(lr) - lowest L) / (L before the fit - lowest L), from 0, the best rate, to 1, no better than no
  fit. No suggestion counts as 1.
- Ratio: L(lr) / lowest L.
- Cost: the time of a suggestion over the time of the planned fit (median over the seeds); for a sweep also its time
  over stock's.
- All rules suggest the rate of the last layer group, with the ratio of the fit. Baselines: fastai's four rules, and
  Lightning's and torch_lr_finder's (see `bench_suggest.py`), all on one sweep; one constant per optimizer and stage,
  the best on the design tasks; `learn.lr`; half the rate of the training before (only where there was one).

`python benchmarks/bench_knowing.py` trains what is missing from the truth in results/ and tries every rule;
`--truth` only trains."""
import argparse, io, json, os, time, warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from functools import partial

os.environ.setdefault('OMP_NUM_THREADS', '1')   # small models, one process per core
warnings.simplefilter('ignore')
import numpy as np, torch
from knowing_tasks import design, held_out, knowing, make, missing_data, tasks
from measure import machine, page, picture, publish, results, stored, table
from fastai.basics import *
from fastai_lrx.all import *
from fastai_lrx.core.plots import new_axes
from fastai_lrx.find.watched import WatchedSweep
from bench_suggest import (Truth, cached_cells, draw_regrets, draw_tasks, lightning, torch_lr_finder,
                           truth_seeds as seeds)

peers = {'lightning 2.5': lightning, 'lightning 2.6 (slope over the rate, not its log)': partial(lightning, over_rate=True),
         'torch_lr_finder': torch_lr_finder}

def grid(name): return 10**(np.arange(11)/2 - (5 if tasks[name].opt=='adam' else 4))

# --- truth -------------------------------------------------------------------------------------------------------------------
class OnlyAtTheEnd(Callback):
    "No validation before the last epoch: it changes nothing."
    run_in_sweep = True
    def before_validate(self):
        if self.epoch < self.n_epoch-1: raise CancelValidException

def number(loss): return float(f'{loss:.6g}') if np.isfinite(loss) else None

def final_loss(name, seed, lr):
    "The validation loss after the planned fit at `lr`."
    learn = make(name, seed)
    with learn.no_logging(), learn.added_cbs(OnlyAtTheEnd()): tasks[name].fit(learn, lr)
    return number(learn.recorder.values[-1][-1])

def cell(name, seed):
    "What every rate leads to, from one seed."
    torch.set_num_threads(1)
    return dict(untrained=number(make(name, seed).validate()[0]),
                losses=[final_loss(name, seed, lr) for lr in grid(name).tolist()])

def truth(names=tuple(tasks), path=results/'knowing_truth.json'):
    "What each rate leads to on these tasks."
    res = cached_cells(path, names, cell)
    return {name: Truth(list(res[name].values()), grid(name)) for name in names}

# --- rules -------------------------------------------------------------------------------------------------------------------
def seconds_of(f):
    start = time.perf_counter()
    res = f()
    return res,time.perf_counter()-start

def sweep(name, learn):
    "The result of `lr_find` with the ratio of the fit, its seconds, and those of them that it watched."
    watched,validate = [],WatchedSweep.validate
    def timed(self): watched.append(seconds_of(partial(validate, self))[1])
    ratio = tasks[name].ratio
    start = 1e-7 if len(ratio)==1 else 1e-7*np.array(ratio)
    WatchedSweep.validate = timed
    try: res,seconds = seconds_of(lambda: learn.lr_find(start, show_plot=False))
    finally: WatchedSweep.validate = validate
    return res,seconds,sum(watched)

def ask(name, seed):
    "What each rule says, and what it cost."
    torch.set_num_threads(1)
    task,learn = tasks[name],make(name, seed)
    with learn.preserved(), learn.no_logging(): fit = seconds_of(lambda: task.fit(learn, 1e-3))[1]
    found,seconds,watched = sweep(name, learn)
    first = found.sweeps[0][0]
    lrs = {k: float(v) for k,v in zip(found._fields, found)} | {k: float(f(first)) for k,f in peers.items()}
    lrs |= {'lr, watch=False': halfway(first), 'learn.lr': learn.lr,
            "half the rate before": task.earlier/2 if task.earlier else np.nan}
    stock = seconds-watched
    row = dict(trust=found.trust, costs={'lr': seconds/fit, 'lr, watch=False': stock/fit}, of_stock=seconds/stock,
               of_hundred=seconds/(stock/len(first)*100), batches=len(first))
    for budget in (0.5, 1.):
        budget_used = max(budget, 3/len(learn.dls.train))
        with redirect_stdout(io.StringIO()):
            res,took = seconds_of(lambda: learn.lr_search(task.fit, budget_used, show_plot=False))
        key = f'lr_search, {budget:g} fits'
        lrs[key],row['costs'][key] = float(res),took/fit
        row[key] = dict(trust=res.trust, interval=res.interval, batches=res.cost)
    return row | dict(lrs=lrs)

def ask_all(names, workers=2):
    "The answers of all rules, for each task and seed."
    with ProcessPoolExecutor(workers) as pool:
        jobs = {(name, seed): pool.submit(ask, name, seed) for name in names for seed in seeds}
        for job in as_completed(jobs.values()): job.result()      # ends where one fails
        return {name: [jobs[name, seed].result() for seed in seeds] for name in names}

def constants(truths):
    "The constant with the lowest mean regret on the design tasks, by optimizer and stage, or by optimizer alone."
    fine = 10**np.linspace(-5, 1, 121)
    def best(chosen): return fine[np.mean([[truths[n].regret(lr) for lr in fine] for n in chosen], axis=0).argmin()]
    res = {}
    for name,task in tasks.items():
        same_opt = [n for n in design if tasks[n].opt==task.opt]
        same = [n for n in same_opt if tasks[n].stage==task.stage]
        res[name] = float(best(same or same_opt))
    return res

# --- results -----------------------------------------------------------------------------------------------------------------
ours = 'lr','lr_search, 0.5 fits','lr_search, 1 fits'

def judge(truths, answers):
    "Regret and ratio of every rule for every task and seed."
    fixed,raw = constants(truths),json.loads((results/'knowing_truth.json').read_text())
    judged = {}
    for name,rows in answers.items():
        t = truths[name]
        lrs = {k: [row['lrs'][k] for row in rows] for k in rows[0]['lrs']}
        lrs['a constant'] = [fixed[name]]*len(rows)
        own = [[np.inf if o is None else o for o in raw[name][str(seed)]['losses']] for seed in seeds]
        lrs['whole fits at 11 rates, own seed'] = [float(t.grid[np.argmin(o)]) for o in own]
        if tasks[name].earlier is None: lrs.pop('half the rate before')
        judged[name] = {k: dict(lrs=v, regret=[t.regret(lr) for lr in v], ratio=[t.ratio(lr) for lr in v]) for k,v in lrs.items()}
    return judged

def summary(judged, answers, names):
    "For each rule over these tasks: mean, 90th percentile and worst regret, median ratio of losses, cost."
    res = {}
    for rule in dict.fromkeys(k for n in names for k in judged[n]):
        having = [n for n in names if rule in judged[n]]
        regrets = [r for n in having for r in judged[n][rule]['regret']]
        costs = [row['costs'][rule] for n in having for row in answers[n] if rule in row['costs']]
        res[rule] = dict(mean=np.mean(regrets), p90=np.quantile(regrets, 0.9), worst=max(regrets), n=len(having),
                         ratio=np.nanmedian([r for n in having for r in judged[n][rule]['ratio']]),
                         cost=np.median(costs) if costs else np.nan)
    return dict(sorted(res.items(), key=lambda o: o[1]['mean']))

notes = """Seeds of a task disagree, so no rule gets near 0: even eleven whole fits with the same seed do not. Thirteen of
the 14 planned fits have fewer batches than the 100 of a sweep, so a sweep usually costs more than a fit here. Watching helps
`lr_find` on the tasks used for design and hurts on the held-out ones (`lr` against `lr, watch=False`). A constant is good on the tasks it was chosen on and far off elsewhere. One held-out task with
wrong labels gains 2% at one rate and next to nothing at the others; most of the worst cases are on it. The rule of
`lr` was changed once after the held-out tasks had been looked at: watched losses count until they are a quarter above
their start (one task had a suggestion of 1e-1), and the watched items are drawn with a fixed seed. Its mean regret on
the held-out tasks was 0.174 before the change.""".replace('\n', ' ')
explained = """The rules, beside those of `suggest.md`:

- `lr_search`, budget 1 or 0.5: short versions of the planned fit that together cost as much as the fit, or half.
- eleven whole fits: the planned fit at each of the 11 rates of the grid, with the same seed; the best of them.
- half the previous rate: half the rate of the training before; tasks with a new head have none.
- `learn.lr`: the learner's default rate.
- a constant: one rate for each optimizer and stage (new head, opened, trained on), the best on the tasks used for design.

Names of tasks:

- lite0, lite1: EfficientNet-Lite0 and Lite1 with ImageNet's weights; the other models were pretrained for this report.
- new head: a frozen body with a new head.
- opened: unfrozen, after its head was trained.
- trained on: the whole model was trained, and trains again on the same data.
- moved: trained on one function, and trains on another, similar one.
- wrong labels: 30% of the training labels are wrong.
- 64 px, long: larger pictures and more epochs than the other tasks with lite0."""
shown = {'lr_search, 0.5 fits': 'lr_search, budget 0.5', 'lr_search, 1 fits': 'lr_search, budget 1',
         'whole fits at 11 rates, own seed': 'eleven whole fits', 'half the rate before': 'half the previous rate',
         'lightning 2.6 (slope over the rate, not its log)': 'lightning 2.6'}
def label(rule): return shown.get(rule, rule)
compared = *ours,'lr, watch=False','valley','a constant'

def parts_of()->dict:
    return {'held-out tasks': [n for n in knowing if n in held_out],
            'tasks used for design': [n for n in knowing if n not in held_out],
            'transformers from scratch': [n for n in tasks if n not in knowing]}

def better_than_search(found)->str:
    "The rules with a lower mean regret than `lr_search` with a budget of one fit, in order."
    most = max(s['n'] for s in found.values())
    return ', '.join(f"{label(k)} ({s['mean']:.3f}" + f", on {s['n']} of {most} tasks"*(s['n'] < most) + ')'
                     for k,s in found.items() if s['mean'] < found['lr_search, 1 fits']['mean'])

def part_lines(title, names, found)->list:
    "A section about these tasks."
    def line(rule, s):
        return [label(rule) + f" ({s['n']} tasks)"*(s['n'] < len(names)), *(f'{s[k]:.3f}' for k in ('mean', 'p90', 'worst')),
                f"{s['ratio']:.2f}x", '' if np.isnan(s['cost']) else f"{s['cost']:.2f}"]
    return [f'## {len(names)} {title}',
            f"`lr_search` with a budget of one fit has a mean regret of {found['lr_search, 1 fits']['mean']:.3f}. "
            f"Lower are: {better_than_search(found)}.",
            table(['rule', 'mean regret', '90th percentile', 'worst', 'final loss / lowest final loss (median)',
                   'cost, in fits (median)'], [line(*o) for o in found.items()])]

def task_lines(truths, judged, answers)->list:
    "A section with all tasks."
    def cell(rules, k): return f"{np.mean(rules[k]['regret']):.3f} ({', '.join(f'{lr:.0e}' for lr in rules[k]['lrs'])})"
    rows = [(row, r) for name in judged for row,r in zip(answers[name], judged[name]['lr']['regret'])]
    ok = [r for row,r in rows if row['trust']=='ok']
    intervals = [(name, row['lr_search, 1 fits']['interval']) for name in judged for row in answers[name]]
    held = [low <= truths[name].best_lr <= high for name,(low,high) in intervals]
    return ['## Task by task',
            f"`trust` is a hint, not a guarantee: `lr_find` says 'ok' in {len(ok)} of {len(rows)} cases, and "
            f"{sum(r < 0.1 for r in ok)} of these have a regret below 0.1. The interval of `lr_search` with a budget "
            f"of one fit holds the best rate of the grid in {sum(held)} of {len(rows)} cases.",
            picture('knowing_tasks', 'Final validation loss against the rate, a panel for each task; marks are the '
                                     'rates that valley, a constant, lr and lr_search (budget 1) suggest from 3 '
                                     'seeds, dotted lines the loss before the fit'),
            'Mean regret, and in brackets the rates that the rule suggests with the three seeds. `trust`, with each seed: '
            '"rising" means that the loss only rises, as for a model that is already at its best; "noisy", that the '
            'fall of the loss does not stand out from its noise.',
            table(['task', 'best rate', *map(label, compared), 'trust of `lr`'],
                  [[name + ' (held out)'*(name in held_out), f'{truths[name].best_lr:.0e}',
                    *(cell(rules, k) for k in compared), ', '.join(row['trust'] for row in answers[name])]
                   for name,rules in judged.items()]),
            f"Watching takes {np.median([row['of_stock'] for row,_ in rows]):.2f}x the time of the sweep without it "
            f"(at most {max(row['of_stock'] for row,_ in rows):.2f}x), and the sweep at most "
            f"{max(row['of_hundred'] for row,_ in rows):.2f}x the time of 100 batches."]

def report(res, truths):
    "The results as a page."
    judged,answers = res['judged'],res['answers']
    parts = {title: [n for n in names if n in judged] for title,names in parts_of().items()}
    found = {title: summary(judged, answers, names) for title,names in parts.items() if names}
    all_of = summary(judged, answers, [n for n in knowing if n in judged])
    cheap = [k for k in all_of if k != 'whole fits at 11 rates, own seed']     # these cost eleven fits
    search,half,lr = (all_of[k] for k in ('lr_search, 1 fits', 'lr_search, 0.5 fits', 'lr'))
    first = next(iter(found))
    return page('knowing', 'How good is a suggested rate for a model that is pretrained or has trained before?',
        "Three kinds of rules suggest a rate: rules that read a sweep, `lr_search`, which tries short versions of the "
        "planned fit, and rules of thumb. The *regret* of a rate is 0 for the best rate of a grid on which the task "
        f"was trained, and 1 for a rate that is no better than no fit. There are {len(knowing)} tasks with such "
        f"models, and two transformers from scratch; {len(seeds)} seeds. Cost is the time of a suggestion, in units of "
        f"the planned fit. Measured on {res['machine']}.",
        f"Over all {len(knowing)} tasks (those of the first two tables below) `lr_search` with a budget of one fit has a mean regret of {search['mean']:.3f} "
        f"(half a fit: {half['mean']:.3f}, `lr`: {lr['mean']:.3f}, `valley`: {all_of['valley']['mean']:.3f}), rank "
        f"{cheap.index('lr_search, 1 fits')+1} of {len(cheap)} rules; eleven whole fits, not counted, have "
        f"{all_of['whole fits at 11 rates, own seed']['mean']:.3f}. On the {len(parts[first])} {first} alone it has "
        f"{found[first]['lr_search, 1 fits']['mean']:.3f}, and lower are: {better_than_search(found[first])}.",
        picture('knowing', 'Mean regret and its 90th percentile for each rule, on held-out tasks, tasks used for '
                           'design and transformers from scratch'),
        notes, explained, *(o for title,s in found.items() for o in part_lines(title, parts[title], s)),
        *task_lines(truths, judged, answers))

def draw(res):
    fig,ax = new_axes(size=(8, 5))
    draw_regrets(ax, {title: {label(k): s for k,s in summary(res['judged'], res['answers'], names).items()}
                      for title,names in parts_of().items()})
    return fig

def measure():
    parser = argparse.ArgumentParser()
    parser.add_argument('--truth', action='store_true', help='only train')
    parser.add_argument('--part', choices=['all','design'], default='all', help='which tasks to ask for')
    args = parser.parse_args()
    if missing := missing_data(): return print(f'bench_knowing: left out, as there is no {missing}')
    truths = truth([name for name in tasks if name in design])
    if args.part=='all': truths = truth()
    if args.truth: return
    answers = ask_all(truths)
    res = dict(machine=machine(), answers=answers, judged=judge(truths, answers))
    return res if args.part=='all' else print(report(res, truths))

def main():
    if not (res := stored('knowing') or measure()): return
    truths = truth()
    looks = {rule: dict(marker=marker, color=color) for rule,color,marker in
             [('valley','C1','v'), ('a constant','C4','s'), ('lr','C3','o'), ('lr_search','C0','D')]}
    searched = {'lr_search': 'lr_search, 1 fits'}
    lrs_of = lambda name,rule: res['judged'][name][searched.get(rule, rule)]['lrs']
    figs = dict(knowing=draw(res), knowing_tasks=draw_tasks(truths, lrs_of, looks, held_out))
    publish('knowing', res, report(res, truths), figs, indent=None)

if __name__=='__main__': main()
