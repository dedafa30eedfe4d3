"""Does a fit survive `kill -9`, and what does that cost?

Protocol. (1) 20 runs, of a vision, a tabular and a text learner in turn (those of tests/tiny.py: shuffling, dropout,
random transforms, BatchNorm, layer groups). Each is a script in its own process that trains with `Resume`: two epochs
of the head, then four with `fit_sgdr`, `Snapshots` on disk and `CSVLogger`. It is killed from outside with SIGKILL at a
random moment of the time that training takes, be it in a batch, a validation or the writing of a checkpoint (every
fourth kill waits for a file that is being written), up to three times, then runs to the end. Reported: whether weights,
losses, history, optimizer, random generators, log and snapshots equal those of the script that was never killed.
(2) The seconds and bytes of a checkpoint of a model with 25 million parameters and Adam (timm's resnet50), including
the copy of the state, the checksum and the flush to disk; in the same process the seconds of 100 training steps at 64
pixels in batches of 32.

`python benchmarks/bench_resume.py` writes results/resume.{json,md,png}; about 15 minutes on 2 cores."""
import json, os, random, re, signal, statistics, subprocess, sys, tempfile, time, warnings
from pathlib import Path

from measure import machine, page, picture, publish, quiet, stored, table, timed

here = Path(__file__).parent
script = """
import sys, warnings
warnings.simplefilter('ignore')
sys.path.insert(0, sys.argv[1])
from tiny import *
from fastai_lrx.all import *
from fastai_lrx.core.fingerprint import fingerprint
from fastai_lrx.core.storage import load_state
kind,folder = sys.argv[2],Path(sys.argv[3])
learn,resume = learner(kind, path=folder),Resume(folder/'run')
print('ready', flush=True)
learn.freeze()
learn.fit_one_cycle(2, 1e-2, cbs=resume)
learn.unfreeze()
learn.fit_sgdr(2, 2, 1e-2, cycle_mult=1, moms=(0.95, 0.85), cbs=[resume, Snapshots(folder/'snapshots'), CSVLogger()])
state = [v for p in learn.model.parameters() for v in learn.opt.state[p].values() if isinstance(v, Tensor)]
log = re.sub(r',[\\d:]*$', '', (folder/'history.csv').read_text(), flags=re.M)
kept = [load_state(p)[0] for p in sorted((folder/'snapshots').glob('snapshot*'))]
history = [[float(o) for o in learn.recorder.losses], [[float(x) for x in v] for v in learn.recorder.values], [float(o) for o in learn.recorder.lrs]]
print(fingerprint(learn.model, state, history, random.random(), float(np.random.rand()), torch.rand(1), log, kept), flush=True)
"""

def start(kind, folder):
    "The script as a process that has just begun to train"
    p = subprocess.Popen([sys.executable, '-c', script, str(here.parent/'tests'), kind, str(folder)],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in p.stdout:
        if line.strip() == 'ready': return p

def finish(kind, folder):
    "Run it to its end: fingerprint of all that it leaves, and seconds"
    p,begin = start(kind, folder),time.perf_counter()
    out = p.communicate()[0]
    if p.returncode: raise RuntimeError(out)
    return out.split()[-1],time.perf_counter()-begin

def writing(folder):
    return any(p.name.startswith('.fit') for p in (folder/'run').glob('.*')) if (folder/'run').exists() else False

def killed(kind, folder, seconds, rng, while_writing):
    "Run it and kill it at a random moment; what was being done, None if it had ended before"
    p = start(kind, folder)
    time.sleep(rng.uniform(0, seconds))
    if while_writing:
        end = time.monotonic() + seconds
        while p.poll() is None and not writing(folder) and time.monotonic() < end: time.sleep(0.0002)
    during = 'writing' if writing(folder) else 'training'
    p.send_signal(signal.SIGKILL)
    p.wait()
    return None if p.returncode == 0 else during

def survivals(n=20):
    rng,oracle,rows = random.Random(0),{},[]
    for i in range(n):
        kind = ('vision','tabular','text')[i%3]
        with tempfile.TemporaryDirectory() as d:
            if kind not in oracle: oracle[kind] = finish(kind, Path(d)/'never killed')
            want,seconds = oracle[kind]
            folder = Path(d)/'killed'
            kills = [killed(kind, folder, seconds, rng, (3*i+k)%4 == 0) for k in range(rng.randint(1, 3))]
            rows.append(dict(kind=kind, kills=[k for k in kills if k], same=finish(kind, folder)[0] == want))
            print(rows[-1], flush=True)
    return rows

def cost(rounds=7):
    "Median seconds and bytes of a checkpoint, and seconds of 100 steps"
    warnings.simplefilter('ignore')
    from fastai.vision.all import Learner, DataLoaders, CrossEntropyLossFlat, torch
    from fastai_lrx.all import Resume
    import timm
    items = [(torch.randn(3, 64, 64), torch.tensor(i%10)) for i in range(32)]
    learn = quiet(Learner(DataLoaders.from_dsets(items*2, items, bs=32, num_workers=0),
                          timm.create_model('resnet50', num_classes=1000), loss_func=CrossEntropyLossFlat()))
    with tempfile.TemporaryDirectory() as d:
        resume = Resume(Path(d)/'run', every=10**6)
        learn.fit(1, 1e-3, cbs=resume)
        resume.learn,resume.what,resume.fit = learn,{},0
        seconds = [timed(lambda: resume.write(i)) for i in range(rounds)]
        size = max(p.stat().st_size for p in (Path(d)/'run').glob('fit*'))
    step = timed(lambda: learn.fit(10, 1e-3))/20
    return dict(seconds=statistics.median(seconds), all_seconds=seconds, bytes=size,
                parameters=sum(p.numel() for p in learn.model.parameters()), steps_100=100*step)

def report(res):
    rows,c = res['survivals'],res['cost']
    n_same,n_killed = sum(r['same'] for r in rows),sum(bool(r['kills']) for r in rows)
    kills = [k for r in rows for k in r['kills']]
    def line(kind):
        own = [r for r in rows if r['kind'] == kind]
        return [kind, len(own), sum(len(r['kills']) for r in own), sum(r['same'] for r in own)]
    return page('resume', 'Does a fit survive `kill -9`?',
        f"{len(rows)} scripts with two fits each train with `Resume`, are killed with SIGKILL up to three times at "
        "random moments, are started again, and are compared with a script that was never killed. Measured on "
        f"{res['machine']}.",
        f"{n_same} of {len(rows)} scripts ended with the weights, losses, history, optimizer, random numbers, log and "
        f"snapshots of the script that was never killed, bit for bit. {n_killed} of them had been killed at least "
        "once; the rest ended before they were killed.",
        picture('resume', 'Kills of vision, tabular and text scripts, during training and while a checkpoint was '
                          'written; and seconds of seven checkpoints of resnet50 beside those of a training step'),
        f"No kind of learner fails: of {len(kills)} kills, {kills.count('writing')} hit a checkpoint while it was "
        "being "
        'written.' if n_same == len(rows) else f'{len(rows)-n_same} scripts ended with a different result.',
        table(['learner', 'scripts', 'kills', 'identical'], map(line, ('vision', 'tabular', 'text'))),
        f"A checkpoint costs less than a training step of a network as large as resnet50: with 1000 classes "
        f"({c['parameters']/1e6:.1f} million parameters, with Adam's averages {c['bytes']/1e6:.0f} MB) it takes "
        f"{c['seconds']:.2f} s ({min(c['all_seconds']):.2f} to {max(c['all_seconds']):.2f}), as long as "
        f"{c['seconds']/c['steps_100']*100:.1f} training steps at 64 pixels in batches of 32.")

def draw(res):
    from fastai_lrx.core.plots import new_axes
    fig,(left,right) = new_axes(1, 2, size=(4, 2.2))
    kinds,before = ('vision', 'tabular', 'text'),[0, 0, 0]
    for during,label in (('training', 'in training'), ('writing', 'while a checkpoint is written')):
        n = [sum(r['kills'].count(during) for r in res['survivals'] if r['kind'] == kind) for kind in kinds]
        left.barh(kinds, n, left=before, height=0.5, label=label)
        before = n
    left.set(xlabel='kills', ylim=(2.5, -1.2))
    left.legend(frameon=False, fontsize='small', ncols=2, loc='upper left')
    c = res['cost']
    right.plot(c['all_seconds'], range(len(c['all_seconds'])), 'o', label='a checkpoint')
    right.axvline(c['steps_100']/100, color='C1', label='a training step')
    right.set(xlabel='seconds, resnet50', xlim=(0, None), yticks=[])
    right.legend(frameon=False, fontsize='small')
    return fig

def main():
    res = stored('resume') or dict(machine=machine(), cost=cost(), survivals=survivals())
    publish('resume', res, report(res), dict(resume=draw(res)))

if __name__=='__main__': main()
