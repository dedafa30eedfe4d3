"""Run a function in several gloo processes on the CPU, with a hard time limit."""
import inspect, os, pickle, psutil, signal, socket, subprocess, sys, tempfile, textwrap, threading, time
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

def on_ranks(func, n:int=2, limit:float=120):
    """`func(rank)` in `n` processes joined by gloo; the list of what they return. `func` finds everything of `tiny`, fastai and
    fastai_lrx.all in its namespace, and nothing else. After `limit` seconds, or if one process fails, all are killed."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as d:
        script = Path(d)/'script.py'
        script.write_text(preamble.format(here=str(here)) + textwrap.dedent(inspect.getsource(func)) + textwrap.dedent(f"""
            rank = dist.get_rank()
            result = {func.__name__}(rank)
            with open(os.path.join({d!r}, f'{{rank}}.pkl'), 'wb') as f: pickle.dump(result, f)
            dist.barrier()
            os._exit(0)
            """))
        env = {**os.environ, 'WORLD_SIZE': str(n), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1'}
        procs = []
        try:
            for rank in range(n):
                procs.append(subprocess.Popen([sys.executable, str(script)], env={**env, 'RANK': str(rank), 'LOCAL_RANK': str(rank)}, cwd=d,
                                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True))
            outs = _wait(procs, limit)
        finally: _kill(procs)
        failed = [f'rank {i}:\n{out}' for i,(p,out) in enumerate(zip(procs, outs)) if p.returncode]
        if failed: raise RuntimeError('\n'.join(failed))
        return [pickle.loads((Path(d)/f'{i}.pkl').read_bytes()) for i in range(n)]

def launch(script:str, *args, n:int=2, limit:float=200):
    "Run `script` in `n` processes with accelerate's launcher; its exit status and output. After `limit` seconds all are killed."
    with tempfile.TemporaryDirectory() as d, socket.socket() as s:
        (Path(d)/'train.py').write_text(script)
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
        s.close()
        env = {**os.environ, 'ACCELERATE_USE_CPU': 'true', 'OMP_NUM_THREADS': '1', 'PYTHONPATH': os.pathsep.join([str(here), os.environ.get('PYTHONPATH', '')])}
        accelerate = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', f'--num_processes={n}', '--num_machines=1', '--mixed_precision=no', '--dynamo_backend=no', f'--main_process_port={port}']
        p = subprocess.Popen([*accelerate, 'train.py', *map(str, args)], cwd=d, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        try: out, = _wait([p], limit)
        finally: _kill([p])
        return p.returncode,out

def _kill(procs):
    "End processes and all that they have started: those of a launcher are in sessions of their own."
    for p in procs:
        if p.poll() is not None: continue
        started = psutil.Process(p.pid).children(recursive=True)
        os.killpg(p.pid, signal.SIGKILL)
        for child in started:
            with suppress(psutil.NoSuchProcess): child.kill()
        p.wait()

def _wait(procs, limit):
    "Outputs of all processes; the first that fails, or the time limit, ends the others."
    outs = [''] * len(procs)
    def read(i): outs[i] = procs[i].communicate()[0]
    threads = [threading.Thread(target=read, args=(i,), daemon=True) for i in range(len(procs))]
    for t in threads: t.start()
    end = time.monotonic() + limit
    while any(p.poll() is None for p in procs):
        late = time.monotonic() > end
        if late or any(p.poll() for p in procs):
            time.sleep(0.5)   # let the others say what they know
            _kill(procs)
            for t in threads: t.join()
            if late: raise TimeoutError(f'no result within {limit} s\n' + '\n'.join(outs))
        time.sleep(0.05)
    for t in threads: t.join()
    return outs
