"""What `lr_find` costs in time and in bytes written, compared with the training steps alone and with stock fastai.

Protocol: every comparison is paired in one process: the parts run in turn, after one round to warm up. We report the
median of the ratios and the interval that covers the median with 90% confidence (order statistics, or the whole range
where rounds are few). Stock's `lr_find` runs from its own parts (`fit` with its LRFinder callback), because our import
replaces the method. Only `valley` is asked for, which reads no watched items, so nothing is watched."""
import statistics, subprocess, sys, tempfile, time, warnings
from pathlib import Path

warnings.simplefilter('ignore')
import timm, torch
from fastai.vision.all import *
from fastai.callback.schedule import LRFinder, valley as stock_valley
from fastai_lrx.all import *
from fastai_lrx.find.curves import valley
from fastai_lrx.core.plots import new_axes
from measure import draw_ratios, machine, page, paired, picture, publish, quiet, ratio, stored, table, timed

def written():
    "Bytes this process has written so far, to anything."
    return int(dict(l.split(': ') for l in Path('/proc/self/io').read_text().splitlines())['wchar'])

def bytes_written(f):
    before = written()
    f()
    return written()-before

def learner(model, x, y, bs, path):
    items = list(zip(x, y))
    # stock does not work without a validation set
    dls = DataLoaders.from_dsets(items, items[:bs], bs=bs, num_workers=0, path=path)
    return quiet(Learner(dls, model, loss_func=CrossEntropyLossFlat()))

def bare_steps(learn, n):
    "`n` training steps with nothing around them"
    opt,done = learn.opt_func(learn.splitter(learn.model), lr=1e-6),0
    learn.model.train()
    while done < n:
        for x,y in learn.dls.train:
            learn.loss_func(learn.model(x), y).backward()
            opt.step(); opt.zero_grad()
            done += 1
            if done==n: break

# rates so low that nothing diverges: always 100 steps
sweep = dict(start_lr=1e-8, end_lr=1e-6, num_it=100, stop_div=False)
def ours(learn): learn.lr_find(show_plot=False, suggest_funcs='valley', **sweep)
def stock(learn):
    with learn.no_logging(): learn.fit(100//len(learn.dls.train)+1, cbs=LRFinder(**sweep))
    stock_valley(*(tensor(o[10:-5]) for o in (learn.recorder.lrs, learn.recorder.losses)), 100)

def compare(make, rounds):
    "Times and bytes of bare steps, our lr_find and stock's, on fresh optimizers and on ones that have trained."
    learn = make()
    seconds = paired(dict(bare=lambda: bare_steps(learn, 100), ours=lambda: ours(learn), stock=lambda: stock(learn)),
                     rounds)
    learn.opt = None
    res = dict(params=sum(p.numel() for p in learn.model.parameters()),
               seconds={k: statistics.median(v) for k,v in seconds.items()},
               ours_over_bare=ratio(seconds['ours'], seconds['bare']),
               stock_over_bare=ratio(seconds['stock'], seconds['bare']),
               ours_over_stock=ratio(seconds['ours'], seconds['stock']))
    # stock's leaves an optimizer behind ...
    res['bytes_fresh'] = {f.__name__: bytes_written(lambda: f(learn)) for f in (ours, stock)}
    # ... and now it has state to save
    learn.fit(1, 1e-8)
    res['bytes_trained'] = {f.__name__: bytes_written(lambda: f(learn)) for f in (ours, stock)}
    return res

def big(path):
    return learner(timm.create_model('resnet50', num_classes=1000), torch.randn(60, 3, 32, 32),
                   torch.randint(10, (60,)), 4, path)
def tiny(path):
    return learner(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
                   torch.randn(640, 1, 8, 8), torch.randint(10, (640,)), 64, path)

def time_valley(n=5000):
    "valley on a noisy falling curve of n points, ours and (once) stock's"
    g = torch.Generator().manual_seed(0)
    lrs,losses = torch.logspace(-7, 1, n), torch.linspace(2, 1, n) + torch.randn(n, generator=g)*0.1
    mine = statistics.median(timed(lambda: valley(lrs, losses, n)) for _ in range(5))
    start = time.perf_counter()
    answer = stock_valley(lrs, losses, n)[0]
    return dict(points=n, ours_seconds=mine, stock_seconds=time.perf_counter()-start,
                same_answer=valley(lrs, losses, n)[0]==answer)

def time_import(base, rounds=5):
    "What `import fastai_lrx.all` adds to `import {base}`, in fresh processes"
    code = f'import time; import {base}; t=time.perf_counter(); import fastai_lrx.all; print(time.perf_counter()-t)'
    runs = [float(subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True,
                                 check=True).stdout) for _ in range(rounds+1)][1:]
    return dict(median=statistics.median(runs), worst=max(runs), rounds=rounds)

def show(r): return f"{r['median']:.3f} ({r['low']:.3f} to {r['high']:.3f}, {r['rounds']} rounds)"
def size(n): return f'{n/1e6:.1f} MB' if n >= 1e5 else f'{n} bytes'

def report(res):
    "The results as a page."
    b,t,v = res['big'],res['tiny'],res['valley']
    def median(r, k): return f"{r[k]['median']:.2f}"
    rows = [[label, show(b[k]), show(t[k])] for label,k in (
        ('our `lr_find` / the same 100 steps alone', 'ours_over_bare'),
        ("stock's / the same 100 steps alone", 'stock_over_bare'), ("ours / stock's", 'ours_over_stock'))]
    rows.append(['seconds: steps alone, ours, stock', ', '.join(f'{s:.2f}' for s in b['seconds'].values()),
                 ', '.join(f'{s:.3f}' for s in t['seconds'].values())])
    rows += [[f'bytes written, {label}: ours, stock', *(f"{size(r[k]['ours'])}, {size(r[k]['stock'])}" for r in (b, t))]
             for label,k in (('new optimizer', 'bytes_fresh'), ('trained optimizer', 'bytes_trained'))]
    imports = '; '.join(f"after `{k}` {i['median']:.3f} s (worst of {i['rounds']}: {i['worst']:.3f} s)"
                        for k,i in res['imports'].items())
    return page('find', 'What does `lr_find` cost?',
        "A sweep of 100 steps without watched items (`watch=False`) is compared with the same 100 training steps "
        f"alone and with stock's `lr_find`, on timm's resnet50 and on a tiny perceptron. Measured on {res['machine']}.",
        f"On resnet50 a sweep takes {median(b, 'ours_over_bare')} times as long as its training steps (stock's: "
        f"{median(b, 'stock_over_bare')}) and writes {size(b['bytes_trained']['ours'])} where stock's writes up to "
        f"{size(b['bytes_trained']['stock'])}. On the tiny model, where everything around a step counts, it takes "
        f"{median(t, 'ours_over_bare')} times as long (stock's: {median(t, 'stock_over_bare')}).",
        picture('find', "Time of a sweep, ours and stock's, as a multiple of its training steps, and megabytes "
                        'written, for resnet50 and a tiny perceptron'),
        f"Our sweep takes {median(b, 'ours_over_stock')} times as long as stock's on resnet50, within the noise, "
        f"and {median(t, 'ours_over_stock')} times on the tiny model. Ratios are medians (90% interval, or the whole "
        "range where rounds are few; number of rounds). Ratios and seconds are each medians over the rounds, so the "
        "seconds do not divide to the ratios.",
        table(['', 'resnet50 (timm), 25.6M parameters, 32 px, batch 4', 'tiny MLP, batch 64'], rows),
        f"Our `valley` takes {v['ours_seconds']:.4f} s on {v['points']} points, stock's {v['stock_seconds']:.1f} s, and "
        f"they suggest {'the same rate' if v['same_answer'] else 'different rates'}. `import fastai_lrx.all` adds little to fastai's "
        "own "
        f'import: {imports}.')

def draw(res):
    fig,(times,written) = new_axes(1, 2, size=(4, 2.2))
    models = {'resnet50': res['big'], 'tiny MLP': res['tiny']}
    for i,way in enumerate(('ours', 'stock')):
        look = dict(color=f'C{i}', label=f"{way}{'' if i == 0 else chr(39)+'s'}")
        draw_ratios(times, {k: r[f'{way}_over_bare'] for k,r in models.items()}, shift=0.3*i-0.15, **look)
        mb = [res['big'][k][way]/1e6 for k in ('bytes_fresh', 'bytes_trained')]
        written.barh(np.arange(2)+0.3*i-0.15, mb, height=0.28, **look)
    times.axvline(1, color='0.5', lw=0.8, ls=':')
    times.set(xlabel='time / time of the training steps alone')
    written.set(yticks=[0, 1], yticklabels=['new optimizer', 'trained optimizer'], ylim=(1.5, -0.5),
                xlabel='MB written, resnet50')
    written.legend(frameon=False, fontsize='small')
    return fig

def measure():
    set_seed(0)
    with tempfile.TemporaryDirectory() as d:
        return dict(machine=machine(), big=compare(lambda: big(d), 3), tiny=compare(lambda: tiny(d), 21),
                    valley=time_valley(), imports={b: time_import(b) for b in ('fastai.vision.all','fastai.text.all')})

def main():
    res = stored('find') or measure()
    publish('find', res, report(res), dict(find=draw(res)))

if __name__=='__main__': main()
