"""What the features cost on a GPU: sweeps, frozen bodies, precomputed activations, checkpoints.

Protocol, fixed before anything was measured. One card, one process. timm's resnet50, convnext_tiny and
vit_small_patch16_224 in stock's `vision_learner`, 10 classes, 224 px, batches of 64, in fp32 (products in TF32) and
bf16. The pictures are noise that lies on the card and is gathered there, so that no slow loader hides a cost. The parts
run in turn; a first round to warm up does not count, and the clock is read after CUDA has finished. We report medians
of paired ratios with their range.
(1) Sweeping: `lr_find` at its default and with `watch=False`, stock's `lr_find`, and the training steps alone, 20 steps
    each. Goal: without watching no slower than stock's, at its default at most 1.35 times the steps alone.
(2) Waiting: how often one batch more makes Python wait for the card, as torch's sync debug mode counts. Goal: no more
    often than stock.
(3) A frozen epoch (20 batches, 5 of validation): stock's; the same with NormFreeze; inside `precomputed()`, a quarter
    of four epochs. Goal: 50 times faster than stock's. Beside it two bounds: the head's steps on the same rows without
    fastai, and the same learner with batches that do nothing (no model, no optimizer step).
(4) Filling: entering `precomputed()` with 4096 pictures, compared with the body's forward pass over the same loaders.
    Goal: 1.05 times, without the fixed cost of entering (measured with 64 pictures), which is reported separately.
(5) A checkpoint of resnet50 with Adam: how long `Resume` keeps training waiting, compared with copying the same tensors
    to the host; and how much longer epochs with checkpoints take. Goal: a shorter wait than such a copy.
(6) `lr_search` for a fit of two frozen epochs, with budgets of 1 and 0.5, in units of that fit.

This is the second protocol. In the first, the loader made batches item by item, which took longer than the steps of
half of the networks.

Without a GPU it runs on a small network, to see that it works. Those numbers mean nothing and are not kept."""
import json, os, statistics, sys, tempfile, time, warnings
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent/'tests'))
warnings.simplefilter('ignore')
import torch
from fastai.vision.all import *
from fastai.callback.schedule import LRFinder
from fastai_lrx.all import *
from fastai_lrx.core.plots import new_axes
from card import quietly, waits_per_batch
from measure import draw_ratios, machine, page, paired, picture, publish, quiet, ratio, results, span, stored, table

card = torch.cuda.is_available()
device = torch.device('cuda' if card else 'cpu')
torch.set_float32_matmul_precision('high')
archs = ('resnet50', 'convnext_tiny', 'vit_small_patch16_224') if card else ('test_convnext',)
bs,size,steps = (64, 224, 20) if card else (4, 64, 3)
n_epoch_batches,n_fill = (20, 4096) if card else (6, 32)

def seconds(f)->float:
    "What `f` takes, until the card is done."
    if card: torch.cuda.synchronize()
    start = time.perf_counter()
    f()
    if card: torch.cuda.synchronize()
    return time.perf_counter()-start

paired = partial(paired, timed=seconds)

def pictures(n:int, train:bool):
    "A loader of `n` pictures of noise on the card, gathered there from a few different ones, so that it costs little."
    x = torch.randn(min(n, 256), 3, size, size, device=device)
    y = torch.arange(len(x), device=device) % 10
    def gathered(batch): return x[batch[0] % len(x)],y[batch[0] % len(x)]
    return DataLoader([(i,) for i in range(n)], bs=bs, shuffle=train, drop_last=train, num_workers=0, device=device,
                      after_batch=gathered)

def learner(arch, precision, n, n_valid=None, **kwargs):
    "Stock's learner on them."
    set_seed(0)
    loaders = [pictures(k, train) for k,train in ((n, True), (n_valid or n//4, False))]
    learn = quiet(vision_learner(DataLoaders(*loaders, device=device), arch, pretrained=False, n_out=10,
                                 loss_func=CrossEntropyLossFlat(), **kwargs))
    learn.model.to(device)
    return learn.to_bf16() if precision == 'bf16' else learn

def mixed(precision): return torch.autocast(device.type, torch.bfloat16) if precision == 'bf16' else nullcontext()

def bare_steps(learn, n, precision):
    "`n` training steps with nothing around them."
    opt,done = learn.opt_func(learn.splitter(learn.model), lr=1e-8),0
    learn.model.train()
    while done < n:
        for x,y in learn.dls.train:
            with mixed(precision): loss = learn.loss_func(learn.model(x), y)
            loss.backward()
            opt.step(); opt.zero_grad()
            done += 1
            if done == n: return

def sweeping(arch, precision, rounds):
    learn = learner(arch, precision, bs*steps)
    sweep = dict(start_lr=1e-9, end_lr=1e-8, num_it=steps, stop_div=False)
    def stock():
        with learn.no_logging(): learn.fit(1, cbs=LRFinder(**sweep))
    def ours(watch):     # valley reads no watched items, so with it nothing would be watched
        learn.lr_find(show_plot=False, suggest_funcs=halfway if watch else 'valley', watch=watch, **sweep)
    times = paired(dict(bare=lambda: bare_steps(learn, steps, precision), stock=stock, unwatched=partial(ours, False),
                        ours=partial(ours, True)), rounds)
    return dict(ms={k: 1000*statistics.median(v)/steps for k,v in times.items()},
                ours_over_stock=ratio(times['unwatched'], times['stock']),
                ours_over_bare=ratio(times['ours'], times['bare']))

def searching(arch, precision, rounds):
    learn = learner(arch, precision, bs*n_epoch_batches)
    learn.freeze()
    def fit(l, lr): l.fit(2, lr)
    times = paired(dict(fit=lambda: fit(learn, 1e-6), whole=lambda: learn.lr_search(fit, 1., 1e-6, show_plot=False),
                        half=lambda: learn.lr_search(fit, 0.5, 1e-6, show_plot=False)), rounds)
    return {k: ratio(times[k], times['fit']) for k in ('whole', 'half')}

def waiting():
    "Waits for each batch more."
    def make(n):
        learn = learner('resnet18' if card else archs[0], 'fp32', bs*n, bs*n)
        learn.freeze()
        return learn
    def cached(l):
        with l.precomputed(): l.fit(1, 1e-3)
    fits = {"stock's fit": lambda l: l.fit(1, 1e-3),
            'fit_sgdr with Snapshots and UntilOverfit': lambda l: l.fit_sgdr(1, 1, 1e-3,
        cbs=[Snapshots(), UntilOverfit()]), 'inside precomputed, filling included': cached,
            "stock's sweep": lambda l: l.fit(1, cbs=LRFinder(num_it=len(l.dls.train), stop_div=False)),
            'lr_find': lambda l: l.lr_find(num_it=len(l.dls.train), stop_div=False, show_plot=False,
                                           suggest_funcs='valley')}
    return {name: waits_per_batch(make, fit) for name,fit in fits.items()} if card else {}

class NoWork(Callback):
    "Lets a batch do nothing: neither model nor optimizer."
    order = 5000
    def before_batch(self): raise CancelBatchException

def head_steps(learn, rows, precision):
    "An epoch of the head's bare steps, rows gathered on the card, and of its validation."
    opt,head = learn.opt_func(L(params(learn.model[1])), lr=1e-6),learn.model[1]
    acts,ys = ([dl.rows.tensors[i] for dl in rows] for i in (0, 1))
    stages = [m for m in head if not any(m is s for s in learn.fixed_body.stages)]
    def forward(x):
        for m in stages: x = m(x)
        return x
    head.train()
    for at in torch.randperm(len(acts[0]), device=device).split(bs):
        with mixed(precision): loss = learn.loss_func(forward(acts[0][at]), ys[0][at])
        loss.backward()
        opt.step(); opt.zero_grad()
    head.eval()
    with torch.no_grad(), mixed(precision):
        for a,y in zip(acts[1].split(bs), ys[1].split(bs)): learn.loss_func(forward(a), y)

def frozen_epochs(arch, precision, rounds):
    stock,still,cached = (learner(arch, precision, bs*n_epoch_batches) for _ in range(3))
    for learn in (stock, still, cached): learn.freeze()
    with cached.precomputed():
        def idle():
            with cached.added_cbs(NoWork()): cached.fit(4, 1e-6)
        times = paired({'stock': lambda: stock.fit(1, 1e-6), 'NormFreeze': lambda: still.fit(1, 1e-6, cbs=NormFreeze()),
                        'inside': lambda: cached.fit(4, 1e-6),
                        'bare head': lambda: [head_steps(cached, cached.dls.loaders, precision) for _ in range(4)],
                        'idle loop': idle}, rounds)
    for k in ('inside', 'bare head', 'idle loop'): times[k] = [s/4 for s in times[k]]
    per_batch = n_epoch_batches + n_epoch_batches//4
    return dict(ms={k: 1000*statistics.median(v)/per_batch for k,v in times.items()},
                speedup=ratio(times['stock'], times['inside']), norm_freeze=ratio(times['stock'], times['NormFreeze']))

def filling(arch, precision, rounds):
    learn,few = (learner(arch, precision, n, bs) for n in (n_fill, bs))
    for l in (learn, few): l.freeze()
    def forward():
        learn.model.eval()
        with torch.no_grad():
            for dl in learn.dls:
                for x,_ in dl:
                    with mixed(precision): learn.model[0](x)
    def fill(l):
        with l.precomputed(): pass
    times = paired(dict(fill=lambda: fill(learn), forward=forward, few=lambda: fill(few)), rounds)
    return dict(seconds={k: statistics.median(v) for k,v in times.items()},
                over_forward=ratio([a-b for a,b in zip(times['fill'], times['few'])], times['forward']))

def checkpoints(rounds):
    "Resume of resnet50 with Adam."
    learn = learner('resnet50' if card else archs[0], 'fp32', bs*n_epoch_batches, bs)
    learn.fit(1, 1e-6)
    tensors = [*learn.model.parameters(), *learn.model.buffers(),
               *(t for s in learn.opt.state.values() for t in s.values() if isinstance(t, Tensor))]
    waits = []
    class Timed(Resume):
        def write(self, *args, **kwargs):
            self.settle()                                     # the one before, which training has hidden
            waits.append(seconds(partial(super().write, *args, **kwargs)))
    def with_checkpoints(cls):
        with tempfile.TemporaryDirectory() as d: learn.fit(4, 1e-6, cbs=cls(d))
    with tempfile.TemporaryDirectory() as d: learn.fit(4, 1e-6, cbs=Timed(d))
    waits = waits[1:-1]                                       # the first allocates, the last waits for the disk
    times = paired(dict(plain=lambda: learn.fit(4, 1e-6), resumed=lambda: with_checkpoints(Resume),
                        copy=lambda: [t.cpu() for t in tensors]), rounds)
    med = {k: statistics.median(v) for k,v in times.items()}
    return dict(mb=sum(t.nbytes for t in tensors)/1e6, waits_ms=[1000*w for w in waits], copy_ms=1000*med['copy'],
                epoch_ms=250*med['plain'], longer_ms=1000*(med['resumed']-med['plain']),
                slower=ratio(times['resumed'], times['plain']))

def show(r):
    "A median with its range."
    return f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})"

def by_run(found:dict, rows:list)->str:
    "A table with a column for each run that has a result."
    if not (runs := {run: o for run,o in found.items() if o}): return 'Not measured in this run.'
    return table(['', *runs], [[label, *(f(o) for o in runs.values())] for label,f in rows])

def ms(label, k): return label,lambda o: f"{o['ms'][k]:.2f}"

def medians(found:dict, key): return [o[key]['median'] for o in found.values() if o]

def goal(met:list)->str:
    "What to say of a goal that each of these cases meets or not."
    return '' if not met else 'The goal is met.' if all(met) else 'The goal is **not met**.'

def report(res)->str:
    "The results as a page; `notes` say what else is to be known of a run, by section."
    c,notes,waits = res['checkpoints'],res.get('notes', {}),res['waiting']
    sweep,watched = medians(res['sweeping'], 'ours_over_stock'),medians(res['sweeping'], 'ours_over_bare')
    inside,still = medians(res['frozen'], 'speedup'),medians(res['frozen'], 'norm_freeze')
    whole,half = medians(res['searching'], 'whole'),medians(res['searching'], 'half')
    filled = medians(res['filling'], 'over_forward')
    def section(title, key, *parts): return [f'## {title}', *parts, *([notes[key]] if key in notes else [])]
    return page('cuda', 'What do the features cost on a GPU?',
        "timm's resnet50, convnext_tiny and vit_small_patch16_224 in stock's `vision_learner` train on pictures of noise "
        f"in the GPU's memory: 224 px, batches of 64, in fp32 and bf16. Measured on {res['machine']}. Ratios are "
        f"medians of {res['rounds']} paired rounds (lowest to highest).",
        f"Without watching, `lr_find` takes {span(sweep, '.2f')} of the time of stock's sweep; a frozen epoch inside "
        f"`precomputed()` is {span(inside)} times faster than stock's (less than on a CPU, because here the loop "
        f"around the head takes much of the time), and with `NormFreeze` {span(still)} times; our fits "
        f"wait for the card {'no more' if all(waits_met(waits)) else 'more'} often than stock's.",
        picture('cuda', "Time of lr_find relative to stock's sweep and to bare training steps, and of frozen epochs "
                        'of stock relative to those with NormFreeze and inside precomputed(), for three networks in '
                        'fp32 and bf16'),
        *section('Sweeping', 'sweeping',
            f"Without watching, a sweep takes {span(sweep, '.2f')} of the time of stock's (the goal: at most 1). "
            f"{goal([r <= 1 for r in sweep])} `lr_find` at its default takes {span(watched, '.2f')} times as long as "
            f"its training steps alone (the goal: at most 1.35). {goal([r <= 1.35 for r in watched])} In ms per step:",
            by_run(res['sweeping'], [ms('steps alone', 'bare'), ms("stock's sweep", 'stock'),
                ms('`lr_find`, `watch=False`', 'unwatched'), ms('`lr_find`', 'ours'),
                ("`lr_find`, `watch=False` / stock's", lambda o: show(o['ours_over_stock'])),
                ('`lr_find` / steps alone', lambda o: show(o['ours_over_bare']))])),
        *section('`lr_search`', 'searching',
            f"For a fit of two epochs, `lr_search` with `budget=1` takes {span(whole, '.2f')} times as long as the "
            f"fit, with `budget=0.5` {span(half, '.2f')} times. In units of that fit:",
            by_run(res['searching'], [('budget=1', lambda o: show(o['whole'])),
                                      ('budget=0.5', lambda o: show(o['half']))])),
        *section('What makes Python wait for the card', 'waiting',
            "The table counts how often each further batch makes Python wait. The goal is that our fits and sweeps wait no "
            f"more often than stock's. "
            f"{goal(waits_met(waits))}",
            table(['', 'waits for the card, each batch (of training, and of validation where there is one)'],
                  [[k, f'{v:g}'] for k,v in waits.items()])),
        *section('A frozen body', 'frozen',
            f"Inside `precomputed()` an epoch is {span(inside)} times faster than stock's (the goal: 50), and with "
            f"`NormFreeze` {span(still)} times. {goal([r >= 50 for r in inside])} Inside, a batch is no longer bound "
            "by the "
            'card: the head alone, without fastai ("bare head"), and fastai\'s loop without model and optimizer '
            '("idle loop") take much of the time. In ms per batch (20 of training, 5 of validation):',
            by_run(res['frozen'], [*(ms(k, k) for k in ('stock', 'NormFreeze', 'inside', 'bare head', 'idle loop')),
                ('stock / inside', lambda o: show(o['speedup'])),
                ('stock / NormFreeze', lambda o: show(o['norm_freeze']))])),
        *section('Filling the activations', 'filling',
            f"Without the fixed cost of entering the block, the pass that computes the activations (\"filling\") takes {span(filled, '.2f')} times "
            f"as long as a forward pass alone (the goal: at most 1.05). {goal([r <= 1.05 for r in filled])}",
            by_run(res['filling'], [
                ('filling, without the fixed cost of entering, / a forward pass alone', lambda o: show(o['over_forward'])),
                ('seconds: filling, forward pass',
                 lambda o: f"{o['seconds']['fill']:.2f}, {o['seconds']['forward']:.2f}"),
                ('seconds of entering with 64 pictures', lambda o: f"{o['seconds']['few']:.2f}")])),
        *section('A checkpoint', 'checkpoints',
            "The goal is that `Resume` makes training wait for less time than a copy to the host takes. "
            f"{goal([w < c['copy_ms'] for w in c['waits_ms']])} For resnet50 with Adam, {c['mb']:.0f} MB, training "
            f"waits {', '.join(f'{w:.1f}' for w in c['waits_ms'])} ms; a copy to the host takes {c['copy_ms']:.1f} ms. "
            f"Four epochs of {c['epoch_ms']:.0f} ms with six checkpoints, the first and the last of which are waited "
            f"for, take {c['longer_ms']:.0f} ms longer, {show(c['slower'])} times as long."
            if c else 'Not measured in this run.'),
        *(o for title,text in res.get('more', {}).items() for o in (f'## {title}', text)))

def waits_met(waits):
    "For each of our fits and our sweep, whether it waits no more often than stock's."
    if not waits: return []
    fit,*ours,sweep,our_sweep = waits.values()
    return [*(o <= fit for o in ours), our_sweep <= sweep]

def draw(res):
    fig,(left,right) = new_axes(1, 2, size=(4, 2.9))
    sides = ((left, res['sweeping'], dict(ours_over_stock="lr_find(watch=False) / stock's sweep",
                                          ours_over_bare='lr_find / steps alone')),
             (right, res['frozen'], dict(speedup="stock's epoch / inside precomputed()",
                                         norm_freeze="stock's epoch / with NormFreeze")))
    for ax,found,ratios in sides:
        for i,(key,label) in enumerate(ratios.items()):
            draw_ratios(ax, {run: o[key] for run,o in found.items() if o}, color=f'C{i}', shift=0.3*i-0.15, label=label)
        ax.axvline(1, color='0.5', lw=0.8, ls=':')
        ax.set_xlabel('ratio of times')
        ax.legend(frameon=False, fontsize='small', loc='lower left', bbox_to_anchor=(0, 1))
        ax.label_outer()
    return fig

def measure():
    "Measure all parts, or those named and keep the results of the others; stop after BENCH_SECONDS, if that is set."
    rounds,*named = [int(sys.argv[1]) if len(sys.argv) > 1 else 3 if card else 1, *sys.argv[2:]]
    end = time.monotonic() + float(os.environ.get('BENCH_SECONDS', 'inf'))
    path = results/'cuda.json'
    res = json.loads(path.read_text()) if named and path.exists() else {}
    runs = {f'{arch.split("_patch")[0]}, {precision}': (arch, precision) for precision in ('fp32','bf16')
            for arch in archs}
    def measured(f, *args):
        if time.monotonic() > end: return None
        res = quietly(f, *args, rounds)
        print(f.__name__, *args, res, file=sys.stderr)
        if card: torch.cuda.empty_cache()
        return res
    def each(f): return lambda: {name: measured(f, *run) for name,run in runs.items()}
    parts = dict(waiting=waiting, checkpoints=partial(measured, checkpoints), sweeping=each(sweeping),
                 searching=each(searching), filling=each(filling), frozen=each(frozen_epochs))
    for part in named or parts:
        res[part] = parts[part]()
        res.get('notes', {}).pop(part, None)                # they were about the earlier run
    return res | dict(machine=f"{torch.cuda.get_device_name() if card else 'no GPU'}, {machine().replace(', CPU', '')}",
                      rounds=rounds)

def main():
    kept = stored('cuda')
    res = kept or measure()
    if kept or card: publish('cuda', res, report(res), dict(cuda=draw(res)))
    else: print(report(res) + '\nNo GPU here: these numbers mean nothing, and are not kept.')

if __name__=='__main__': main()
