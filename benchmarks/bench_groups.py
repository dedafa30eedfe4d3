"""Layer groups of all of timm's architectures, and what a frozen body costs. About 20 minutes on 2 cores.

Protocol. (1) Every architecture is built as `timm_learner` builds it, without memory on torch's meta device, for the image size of its
config; a forward pass notes in which order parameters are used. It is then cut in 24 ways (blocks and stages; None, 2, 3, 4, 5, 8 groups;
by depth and by parameters), each checked for six faults. More groups than a model has layers must be refused. The forward pass of the
model that stock's vision_learner builds is tried the same way. (2) An epoch of timm's resnet18 at 96 px with its body frozen: stock's vision_learner, the same with fastai's BnFreeze and train_bn=False,
and timm_learner(train_bn=False), in turn in one process; bytes that autograd keeps for the backward pass of one batch."""
import multiprocessing, statistics, sys, time, warnings
from pathlib import Path

warnings.simplefilter('ignore')
here = Path(__file__).parent
sys.path.insert(0, str(here.parent/'tests'))
import timm, torch
from timm_zoo import faults, on_meta, stock_on_meta, ways
from fastai.vision.all import *
from fastai_lrx.all import *
from fastai_lrx.spread.layers import model_layers
from measure import machine, paired, publish, quiet, ratio

def survey(arch):
    "Layers, faults and times of one architecture"
    torch.set_num_threads(1)
    row = dict(arch=arch, family=timm.models._registry._model_to_module[arch], stock=stock_on_meta(arch))
    try: model,order = on_meta(arch)
    except Exception as e: return row | dict(error=f'{type(e).__name__}: {e}'.splitlines()[0])
    found = {str(way): faults(model, order, *way) for way in ways}
    timm_split(model)
    start = time.perf_counter()
    timm_split(model)
    return row | dict(layers=len(model_layers(model)[0]), split_ms=1000*(time.perf_counter()-start),
                      refused=sum(f is None for f in found.values()), wrong={way: f for way,f in found.items() if f})

def all_archs():
    with multiprocessing.Pool(2) as pool:
        return sorted(pool.imap_unordered(survey, timm.list_models(), chunksize=4),
                      key=lambda r: (r['family'], r['arch']))

def frozen_learners(n=256, bs=32, size=96):
    "The same frozen resnet18 three ways, on the same noise"
    items = [(torch.randn(3, size, size), torch.tensor(i%10)) for i in range(n)]
    def frozen(make, **kwargs):
        set_seed(0)
        dls = DataLoaders.from_dsets(items, items[:bs], bs=bs, num_workers=0)
        learn = quiet(make(dls, 'resnet18', pretrained=False, n_out=10, loss_func=CrossEntropyLossFlat(), **kwargs))
        learn.freeze()
        return learn
    return dict(stock=frozen(vision_learner), bn_freeze=frozen(vision_learner, train_bn=False, cbs=BnFreeze()),
                ours=frozen(timm_learner, train_bn=False))

def kept_bytes(learn):
    "Bytes of what autograd keeps for the backward pass of a batch, weights not counted"
    weights,kept = {p.untyped_storage().data_ptr() for p in learn.model.parameters()},{}
    def pack(t):
        if t.untyped_storage().data_ptr() not in weights: kept[t.untyped_storage().data_ptr()] = t
        return t
    class StopAtLoss(Callback):
        def before_batch(self):
            self.hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
            self.hooks.__enter__()
        def after_loss(self):
            self.hooks.__exit__()
            self.sum = sum(t.untyped_storage().nbytes() for t in kept.values())
            raise CancelFitException
    learn.fit(1, 1e-3, cbs=(cb := StopAtLoss()))
    return cb.sum

def frozen(rounds=5):
    learns = frozen_learners()
    kept = {k: kept_bytes(l) for k,l in learns.items()}
    seconds = paired({k: partial(l.fit, 1, 1e-3) for k,l in learns.items()}, rounds)
    return dict(kept=kept, seconds={k: statistics.median(v) for k,v in seconds.items()},
                **{f'stock_over_{k}': ratio(seconds['stock'], seconds[k]) for k in ('bn_freeze', 'ours')})

def table(rows):
    "A line per family"
    lines = ['| family | architectures | layers | cuts as asked | refused: too few layers | faults |',
             '|---|---|---|---|---|---|']
    for name,group in groupby(rows, lambda r: r['family']).items():
        ok = [r for r in group if 'error' not in r]
        wrong = sorted({w for r in ok for found in r['wrong'].values() for w in found}
                       | {r['error'] for r in group if 'error' in r})
        n_cuts,n_refused = len(ways)*len(group),sum(r['refused'] for r in ok)
        layers = [r['layers'] for r in ok] or [0]
        lines.append(f"| {name} | {len(group)} | {min(layers)} to {max(layers)} | "
                     f"{sum(len(ways)-r['refused']-len(r['wrong']) for r in ok)} of {n_cuts} | {n_refused} | "
                     f"{', '.join(wrong) or 'none'} |")
    return lines

def show(r): return f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})"

def report(res):
    "The results as a page."
    rows,cost = res['rows'],res['frozen']
    ok,stock = [r for r in rows if 'error' not in r],[r['stock'] for r in rows]
    faulty = sorted(r['arch'] for r in ok if r['wrong'])
    split_ms,kept,seconds = sorted(r['split_ms'] for r in ok),cost['kept'],cost['seconds']
    return '\n'.join(['# Layer groups of every timm architecture', '', f"timm {res['timm']}, on {res['machine']}.", '',
        f"Of {len(rows)} architectures {len(ok)} build and run as `timm_learner` builds them. {len(ok)-len(faulty)} of "
        f"them come in groups without a fault in each of {len(ways)} cuts"
        + (f"; the others are {', '.join(faulty)}: "
           f"{', '.join(sorted({w for r in ok for found in r['wrong'].values() for w in found}))}." if faulty else '.'),
        f"Cutting a model takes {statistics.median(split_ms):.1f} ms (median; worst {split_ms[-1]:.0f} ms).", '',
        f"Stock's `vision_learner` builds {sum('error' in s for s in stock)} that fail in a forward pass, and "
        f"{sum(s.get('unused', 0) > 0 for s in stock)} that leave weights unused, "
        f"{sum(s.get('unused', 0) > 0.1 for s in stock)} of them more than a tenth.", '',
        '## A frozen body', '', 'timm resnet18, 96 px, batches of 32, body frozen, head trained; median of the paired '
                                'ratios with its 90 % interval.', '',
        '| | seconds an epoch | stock / this | kept for the backward pass of a batch |', '|---|---|---|---|',
        f"| stock: `vision_learner`, `freeze()` | {seconds['stock']:.2f} | 1 | {kept['stock']/1e6:.1f} MB |",
        f"| stock with `train_bn=False, cbs=BnFreeze()` | {seconds['bn_freeze']:.2f} | "
        f"{show(cost['stock_over_bn_freeze'])} | {kept['bn_freeze']/1e6:.1f} MB |",
        f"| `timm_learner(..., train_bn=False)` | {seconds['ours']:.2f} | {show(cost['stock_over_ours'])} | "
        f"{kept['ours']/1e6:.1f} MB |", '',
        '## By family', '', 'Faults looked for: another number of groups than asked for, a parameter missing or twice, '
                            'an empty group, a group without use in a forward pass, the head not last, groups not in '
                            'the order of first use.', '', *table(rows), '',
        'Reproduce: `python benchmarks/bench_groups.py`, or `make bench`.', ''])

def main():
    res = dict(machine=machine(), timm=timm.__version__, frozen=frozen(), rows=all_archs())
    publish('groups', res | dict(rows=[r for r in res['rows'] if 'error' in r or r['wrong']]), report(res))

if __name__=='__main__': main()
