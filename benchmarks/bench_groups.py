"""Layer groups of all of timm's architectures, and what a frozen body costs. About 20 minutes on 2 cores.

Protocol. (1) Every architecture is built as `timm_learner` builds it, on torch's meta device (without memory), for the
image size of its config. A forward pass records the order in which parameters are used. The model is then cut in 24
ways (blocks and stages; None, 2, 3, 4, 5, 8 groups; by depth and by parameters), each checked for six faults. More
groups than a model has layers must be refused. The model that stock's `vision_learner` builds gets the same forward
pass.
(2) An epoch of timm's resnet18 at 96 px with its body frozen, with stock's `vision_learner`, the same with fastai's
BnFreeze and train_bn=False, and `timm_learner(train_bn=False)`, in turn in one process; and the bytes that autograd
keeps for the backward pass of one batch."""
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
from fastai_lrx.core.plots import new_axes
from measure import draw_ratios, machine, page, paired, picture, publish, quiet, ratio, stored, table

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

def families(rows)->list:
    "What the cuts of each family gave."
    res = []
    for name,group in groupby(rows, lambda r: r['family']).items():
        ok = [r for r in group if 'error' not in r]
        wrong = sorted({w for r in ok for found in r['wrong'].values() for w in found}
                       | {r['error'] for r in group if 'error' in r})
        layers = [r['layers'] for r in ok] or [0]
        res.append(dict(family=name, n=len(group), fewest=min(layers), most=max(layers), n_cuts=len(ways)*len(group),
                        cut=sum(len(ways)-r['refused']-len(r['wrong']) for r in ok),
                        refused=sum(r['refused'] for r in ok), faults=wrong))
    return res

def survey_of(rows)->dict:
    "What all architectures gave, and the rows of those with faults."
    ok,stock = [r for r in rows if 'error' not in r],[r['stock'] for r in rows]
    split_ms = sorted(r['split_ms'] for r in ok)
    return dict(n=len(rows), n_build=len(ok), split_ms=statistics.median(split_ms), worst_split_ms=split_ms[-1],
                stock=dict(fail=sum('error' in s for s in stock), unused=sum(s.get('unused', 0) > 0 for s in stock),
                           tenth_unused=sum(s.get('unused', 0) > 0.1 for s in stock)),
                families=families(rows), faulty=[r for r in rows if 'error' in r or r['wrong']])

def show(r): return f"{r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f})"

def report(res):
    "The results as a page."
    s,cost = res['survey'],res['frozen']
    kept,seconds,stock = cost['kept'],cost['seconds'],s['stock']
    faulty = [r['arch'] for r in s['faulty'] if 'error' not in r]
    faults = sorted({f for r in s['faulty'] for found in r.get('wrong', {}).values() for f in found})
    others = f"; the others are {', '.join(sorted(faulty))}: {', '.join(faults)}" if faulty else ''
    learners = {'stock': 'stock: `vision_learner`, `freeze()`',
                'bn_freeze': 'stock with `train_bn=False, cbs=BnFreeze()`',
                'ours': '`timm_learner(..., train_bn=False)`'}
    return page('groups', 'Can every timm architecture be cut into layer groups?',
        f"`timm_learner` builds all {s['n']} architectures of timm {res['timm']}; each is cut in {len(ways)} ways and "
        "checked for six faults, and stock's `vision_learner` builds the same ones. Beside it, what frozen epochs "
        f"cost with and without BatchNorm in training. Measured on {res['machine']}.",
        f"{s['n_build']} of {s['n']} architectures build and run, {s['n_build']-len(faulty)} of them without a fault "
        f"however they are split into groups. With stock's `vision_learner` {stock['fail']} fail in a forward pass, and "
        f"{stock['unused']} leave weights unused, {stock['tenth_unused']} of them more than a tenth of their weights.",
        picture('groups', "How many of timm's architectures build without a fault in timm_learner and in "
                          'vision_learner, and how much faster a frozen epoch is without BatchNorm in training'),
        f"{s['n_build']-len(faulty)} architectures come in groups without a fault in each of {len(ways)} cuts{others}. "
        f"Cutting a model takes {s['split_ms']:.1f} ms (median; worst {s['worst_split_ms']:.0f} ms).",
        '## A frozen body',
        f"Without BatchNorm in training, a frozen epoch is {cost['stock_over_ours']['median']:.1f} times faster and "
        f"keeps {kept['ours']/1e6:.1f} MB instead of {kept['stock']/1e6:.0f} for the backward pass; with fastai's "
        f"`BnFreeze` it is {cost['stock_over_bn_freeze']['median']:.1f} times faster. timm's resnet18, 96 px, batches "
        "of 32, body frozen, head trained; median of the paired ratios with its 90% interval.",
        table(['', 'seconds an epoch', 'stock / this', 'kept for the backward pass of a batch'],
              [[name, f'{seconds[k]:.2f}', '1' if k == 'stock' else show(cost[f'stock_over_{k}']),
                f'{kept[k]/1e6:.1f} MB'] for k,name in learners.items()]),
        '## By family',
        f"{sum(not f['faults'] for f in s['families'])} of {len(s['families'])} families have no fault. A cut is "
        "refused "
        'where a model has fewer layers than groups are requested. The faults checked for: a different number of '
        'groups than requested, a parameter missing or in two groups, an empty group, a group that a forward pass '
        'does not use, the head not last, groups not in the order of first use ("order").',
        table(['family', 'architectures', 'layers', 'cuts as requested', 'refused: too few layers', 'faults'],
              [[f['family'], f['n'], f"{f['fewest']} to {f['most']}", f"{f['cut']} of {f['n_cuts']}", f['refused'],
                ', '.join(f['faults']) or 'none'] for f in s['families']]))

def draw(res):
    fig,(left,right) = new_axes(1, 2, size=(4, 2.2))
    s,cost = res['survey'],res['frozen']
    stock,n_faulty = s['stock'],len(s['faulty'])
    found = {'without a fault': (s['n']-n_faulty, s['n']-stock['fail']-stock['unused'], 'C0'),
             'groups out of order': (n_faulty, 0, 'C4'),
             'weights unused': (0, stock['unused'], 'C1'), 'fail': (0, stock['fail'], 'C3')}
    done = np.zeros(2)
    for label,(ours,theirs,color) in found.items():
        left.barh(['timm_learner', 'vision_learner'], [ours, theirs], left=done, height=0.5, color=color, label=label)
        done += [ours, theirs]
    left.set(xlabel='architectures', ylim=(1.5, -1.5))
    left.legend(frameon=False, fontsize='small', ncols=2, loc='upper left')
    draw_ratios(right, {'stock with\nBnFreeze': cost['stock_over_bn_freeze'],
                        'timm_learner,\ntrain_bn=False': cost['stock_over_ours']})
    right.axvline(1, color='0.5', lw=0.8, ls=':')
    right.set(xlabel="frozen epoch: stock's time / this", xlim=(0.9, None))
    return fig

def main():
    res = stored('groups') or dict(machine=machine(), timm=timm.__version__, frozen=frozen(),
                                   survey=survey_of(all_archs()))
    publish('groups', res, report(res), dict(groups=draw(res)))

if __name__=='__main__': main()
