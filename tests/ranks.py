"""Run a function in several gloo processes on the CPU, with a hard time limit."""
import inspect, multiprocessing, os, pickle, psutil, runpy, socket, subprocess, sys, tempfile, textwrap, time
from contextlib import suppress
from pathlib import Path

here = Path(__file__).parent
preamble = """
import os, pickle, sys, warnings
warnings.simplefilter('ignore')
sys.path.insert(0, {here!r})
import torch, torch.distributed as dist
torch.set_num_threads(1)
from tiny import *
from fastai.distributed import *
import fastai.distributed
from fastai_lrx.all import *
dist.init_process_group('gloo')
def _broadcast(self, t, rank):   # fastai's own moves the tensor to a GPU
    t = LongTensor(t)
    dist.broadcast(t, rank)
    return t.tolist()
DistributedDL._broadcast = _broadcast
"""
server = multiprocessing.get_context('forkserver')   # it imports fastai once: a process then starts in milliseconds
server.set_forkserver_preload(['fastai.vision.all', 'fastai.text.all', 'fastai.tabular.all', 'fastai.distributed',
                               'fastai_lrx.all'])

def _run(script:str, out:str, env:dict):
    "In a process of its own: `script` as Python itself would run it."
    os.setsid()
    file = os.open(out, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2): os.dup2(file, stream)
    os.environ.clear(); os.environ.update(env)
    os.chdir(Path(script).parent)
    sys.argv = [script]
    runpy.run_path(script, run_name='__main__')

def on_ranks(func, n:int=2, limit:float=120):
    """`func(rank)` in `n` processes joined by gloo; the list of what they return.

    `func` finds everything of `tiny`, fastai and fastai_lrx.all in its namespace, and nothing else. After `limit`
    seconds, or if one process fails, all are killed."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as d:
        script = Path(d)/'script.py'
        script.write_text(preamble.format(here=str(here)) + textwrap.dedent(inspect.getsource(func))
                          + textwrap.dedent(f"""
            rank = dist.get_rank()
            result = {func.__name__}(rank)
            with open(os.path.join({d!r}, f'{{rank}}.pkl'), 'wb') as f: pickle.dump(result, f)
            dist.barrier()
            sys.stdout.flush(); sys.stderr.flush()
            os._exit(0)
            """))
        env = {**os.environ, 'WORLD_SIZE': str(n), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port),
               'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1'}
        procs,outs = [],[Path(d)/f'{rank}.txt' for rank in range(n)]
        try:
            for rank in range(n):
                p = server.Process(target=_run,
                                   args=(str(script), str(outs[rank]),
                                         {**env, 'RANK': str(rank), 'LOCAL_RANK': str(rank)}))
                p.start()
                procs.append(p)
            _wait(procs, outs, limit)
        finally: _kill(procs)
        failed = [f'rank {i}, exit status {p.exitcode}:\n{_read(out)}' for i,(p,out) in enumerate(zip(procs, outs))
                  if p.exitcode]
        if failed: raise RuntimeError('\n'.join(failed))
        return [pickle.loads((Path(d)/f'{i}.pkl').read_bytes()) for i in range(n)]

def launch(script:str, *args, n:int=2, limit:float=200):
    """Run `script` in `n` processes with accelerate's launcher; its exit status and output.

    After `limit` seconds all are killed."""
    with tempfile.TemporaryDirectory() as d, socket.socket() as s:
        (Path(d)/'train.py').write_text(script)
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
        s.close()
        env = {**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1',
               'PYTHONPATH': os.pathsep.join([str(here), os.environ.get('PYTHONPATH', '')])}
        accelerate = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', f'--num_processes={n}',
                      '--num_machines=1', '--mixed_precision=no', '--dynamo_backend=no', f'--main_process_port={port}']
        out = Path(d)/'out.txt'
        with out.open('w') as f:
            p = subprocess.Popen([*accelerate, 'train.py', *map(str, args)], cwd=d, env=env, stdout=f, stderr=f,
                                 start_new_session=True)
        try: _wait([p], [out], limit)
        finally: _kill([p])
        return p.returncode,_read(out)

def _read(out:Path)->str: return out.read_text(errors='replace') if out.exists() else ''

def _status(p): return p.exitcode if isinstance(p, server.Process) else p.poll()

def _kill(procs):
    "End processes and all that they have started: those of a launcher are in sessions of their own."
    for p in procs:
        if _status(p) is not None: continue
        started = psutil.Process(p.pid).children(recursive=True)
        p.kill()
        for child in started:
            with suppress(psutil.NoSuchProcess): child.kill()
    for p in procs: p.join() if isinstance(p, server.Process) else p.wait()

def _wait(procs, outs, limit):
    "Until all processes have ended; the first that fails, or the time limit, ends the others."
    end = time.monotonic() + limit
    while any(_status(p) is None for p in procs):
        late = time.monotonic() > end
        if late or any(_status(p) for p in procs):
            time.sleep(0.5)   # let the others say what they know
            _kill(procs)
            if late: raise TimeoutError(f'no result within {limit} s\n' + '\n'.join(map(_read, outs)))
            return
        time.sleep(0.02)
