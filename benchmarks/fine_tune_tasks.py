"""Transfer tasks on which ways of fine-tuning are compared: a pretrained model, and a target with few labels.

Six tasks transfer ImageNet networks (EfficientNet-Lite0 and Lite1, see `real_data.py`) to pictures of clothes. The
other models are trained once on a source made from what is installed, and kept in `cache_dir`: digits, shapes,
clothes (36 000 pictures of six kinds), docstrings. The seed of a run draws the labelled examples of the target and
the new head; the order of batches is drawn anew each time. Eight of fifteen tasks are held out, named before
anything was run; both parts have every kind of model."""
import ast, re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np, torch
from PIL import Image, ImageDraw
from sklearn import datasets
from fastai.vision.all import *
from fastai.text.all import *
from fastai_lrx.all import *
from measure import quiet
from real_data import fashion, imagenet, kept, pictures

# --- images -------------------------------------------------------------------------------------------------------------------
@cache
def digits(classes):
    "scikit-learn's digits of these classes, enlarged to 32 pixels."
    d = datasets.load_digits()
    keep = np.isin(d.target, classes)
    x = F.interpolate(torch.as_tensor(d.images[keep, None]/8-1).float(), size=32, mode='bilinear')
    return x,torch.as_tensor(d.target[keep]-min(classes))

def polygon(n, turn, inner=1.):
    return [(np.cos(a)*(1 if i%2==0 else inner), np.sin(a)*(1 if i%2==0 else inner))
            for i,a in enumerate(turn + np.arange(n)*2*np.pi/n)]
outlines = dict(triangle=polygon(3, -np.pi/2), square=polygon(4, np.pi/4), star=polygon(10, -np.pi/2, 0.4),
                bar=[(-1,-.25),(1,-.25),(1,.25),(-1,.25)], disk=polygon(40, 0),
                pentagon=polygon(5, -np.pi/2),
                cross=[(-.3,-1),(.3,-1),(.3,-.3),(1,-.3),(1,.3),(.3,.3),(.3,1),(-.3,1),(-.3,.3),(-1,.3),(-1,-.3),(-.3,-.3)],
                arrow=[(-1,-.25),(.1,-.25),(.1,-.8),(1,0),(.1,.8),(.1,.25),(-1,.25)],
                corner=[(-.8,-.8),(-.2,-.8),(-.2,.3),(.8,.3),(.8,.8),(-.8,.8)], hexagon=polygon(6, 0))

@cache
def shapes(classes, n=2500):
    "32-pixel gray images of filled outlines at random places, sizes and angles, over lines and noise."
    rng = np.random.default_rng(min(classes))
    y = rng.choice(list(classes), n)
    def draw(k):
        img = Image.new('L', (64,64), int(rng.integers(60, 120)))
        pen = ImageDraw.Draw(img)
        for _ in range(3):
            pen.line([tuple(rng.integers(0, 64, 2)) for _ in range(2)], fill=int(rng.integers(90, 180)), width=2)
        turn,size,(cx,cy) = rng.uniform(-.4, .4),rng.uniform(14, 24),rng.uniform(26, 38, 2)
        pen.polygon([(cx+size*(u*np.cos(turn)-v*np.sin(turn)), cy+size*(u*np.sin(turn)+v*np.cos(turn)))
                     for u,v in list(outlines.values())[k]], fill=int(rng.integers(150, 255)))
        return np.asarray(img.resize((32,32)))/128-1
    return torch.as_tensor(np.stack([draw(k)[None] for k in y])
                           + rng.normal(0, .15, (n,1,32,32))).float(),torch.as_tensor(y-min(classes))

# --- text: docstrings of libraries that come with fastai --------------------------------------------------------------------------
length,vocab_size = 60,4000
libraries = 'numpy', 'scipy', 'pandas', 'torch', 'sklearn', 'matplotlib', 'sympy', 'networkx'

@cache
def docstrings():
    "(words, library, part) of the first `length` words of every docstring in the source files of the libraries; the part is the folder or file below the library's own."
    res,seen = [],set()
    for library in libraries:
        root = Path(find_spec(library).origin).parent
        for file in sorted(root.rglob('*.py')):
            parts = file.relative_to(root).parts
            if not {'tests', 'testing', '_vendor'} & set(parts):
                for words in words_of(file):
                    if words not in seen: res.append((words, library, parts[0]))
                    seen.add(words)
    return [res[i] for i in np.random.default_rng(0).permutation(len(res))]

def words_of(file):
    "The first `length` words of every docstring of a public class or function in `file` that has so many."
    try: tree = ast.parse(file.read_text(encoding='utf8'))
    except (SyntaxError, UnicodeDecodeError): return
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
            words = re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]", (ast.get_docstring(node) or '').lower())[:length]
            if len(words) == length: yield tuple(words)

@cache
def texts():
    "All docstrings as rows of word numbers, from the most frequent word on; 0 is unknown, 1 would pad."
    counts = Counter(w for words,*_ in docstrings() for w in words)
    number = {w: i+2 for i,(w,_) in enumerate(counts.most_common(vocab_size-2))}
    return torch.as_tensor([[number.get(w, 0) for w in words] for words,*_ in docstrings()])

topics = dict(library=(None, ['scipy', 'pandas', 'torch', 'sympy']), field=('sympy', ['polys', 'physics', 'combinatorics', 'geometry']),
              part=('torch', ['distributed', '_inductor', 'nn', 'ao']))

@cache
def labelled_texts(topic):
    "Rows of word numbers with a label: which of four libraries, or which of four parts of one library."
    within,classes = topics[topic]
    labels = [library if within is None else part if library == within else None for _,library,part in docstrings()]
    keep = [i for i,label in enumerate(labels) if label in classes]
    return texts()[keep],torch.as_tensor([classes.index(labels[i]) for i in keep])

def small_lstm(dropout):
    return dict(emb_sz=100, n_hid=200, n_layers=3, pad_token=1, output_p=dropout, hidden_p=dropout, input_p=dropout,
                embed_p=dropout/5, weight_p=dropout)

# --- models and what they were trained on -------------------------------------------------------------------------------------
archs = dict(cnn=dict(arch='resnet10t'), vit=dict(arch='test_vit', patch_size=4),
             clothes_vit=dict(arch='vit_tiny_patch16_224', img_size=28, patch_size=4, embed_dim=64, depth=6, num_heads=4),
             clothes_convnext=dict(arch='convnext_atto', depths=(1,1,2,1), dims=(16,32,64,96), patch_size=2))
first,second = tuple(range(5)),tuple(range(5, 10))
images = dict(digits=digits, shapes=shapes)
sizes = dict(cnn=32, vit=32, clothes_vit=28, clothes_convnext=32)

def source_items(data, size):
    "Examples of the source of a model."
    return pictures(range(6), 36000, 0, size=size) if data == 'clothes' else list(zip(*images[data](first)))

def body_of(data, model):
    "The weights of a body that was trained on the source."
    def train():
        set_seed(0)
        items = source_items(data, sizes[model])
        bs,(epochs,lr) = (64, (4, 3e-3)) if data == 'clothes' else (32, (10, 3e-3) if model == 'cnn' else (25, 1e-3))
        dls = loaders(items, items[:32], bs)
        learn = quiet(timm_learner(dls, **archs[model], **one_channel(data), pretrained=False, n_out=6 if data == 'clothes' else 5,
                                   loss_func=CrossEntropyLossFlat()))
        learn.fit_one_cycle(epochs, lr)
        return learn.model[0].state_dict()
    return kept(f'fine_tune_{data}_{model}', train)

def one_channel(data): return dict(n_in=1) if data == 'clothes' else {}

def language_model():
    "An LSTM that was trained to predict the next word of all docstrings: its encoder."
    def train():
        set_seed(0)
        items = [(row[:-1], row[1:]) for row in texts()]
        lm = get_language_model(AWD_LSTM, vocab_size, {**awd_lstm_lm_config, **small_lstm(0.05)})
        learn = quiet(Learner(loaders(items, items[:64], 64), lm, loss_func=CrossEntropyLossFlat(), splitter=awd_lstm_lm_split, cbs=rnn_cbs()))
        learn.fit_one_cycle(4, 1e-2, moms=(0.8, 0.7, 0.8))
        return learn.model[0].state_dict()
    return kept('fine_tune_text_lstm', train)

# --- the tasks ----------------------------------------------------------------------------------------------------------------
@dataclass
class Task:
    data:str # 'digits', 'shapes', 'clothes', or a topic of docstrings
    model:str # one of `archs`, 'lstm', 'lite0' or 'lite1'
    n:int # labelled examples
    classes:tuple=second
    size:int=28 # pixels of clothes
    bs:int=8
    n_test:int=1000
    @property
    def is_real(self): return self.model.startswith('lite')
    @property
    def has_batchnorm(self): return self.is_real or self.model == 'cnn'
    @property
    def seeds(self): return range(3 if self.is_real else 5)

every = tuple(range(10))
tasks = {
    # those on which defaults are chosen
    'digits, CNN': Task('digits', 'cnn', 60, n_test=700), 'shapes, ViT': Task('shapes', 'vit', 200),
    'libraries, LSTM': Task('library', 'lstm', 300, bs=16), 'clothes, ViT': Task('clothes', 'clothes_vit', 200, (6,7,8,9)),
    'clothes, Lite0, 240 of 10 kinds': Task('clothes', 'lite0', 240, every, 48, 16),
    'clothes, Lite0, 120 of 3 kinds': Task('clothes', 'lite0', 120, (2,4,6), 64, 16),
    'clothes, Lite1, 200 of 10 kinds': Task('clothes', 'lite1', 200, every, 48, 16),
    # held out
    'digits, ViT': Task('digits', 'vit', 150, n_test=700), 'shapes, CNN': Task('shapes', 'cnn', 100),
    'fields, LSTM': Task('field', 'lstm', 300, bs=16, n_test=800), 'parts, LSTM': Task('part', 'lstm', 200, bs=16, n_test=800),
    'clothes, ConvNeXt': Task('clothes', 'clothes_convnext', 120, (6,7,8,9), 32),
    'clothes, Lite0, 80 of 5 kinds': Task('clothes', 'lite0', 80, second, 48, 8),
    'clothes, Lite1, 300 of 5 kinds': Task('clothes', 'lite1', 300, (0,2,4,6,8), 48, 16),
    'clothes, Lite0, 400 of 10 kinds': Task('clothes', 'lite0', 400, every, 48, 16)}
design = list(tasks)[:7]
held_out = list(tasks)[7:]
# the same pictures in larger numbers
larger = {'clothes, Lite0, 1000 of 10 kinds': Task('clothes', 'lite0', 1000, every, 64, 32),
          'clothes, Lite1, 2000 of 10 kinds': Task('clothes', 'lite1', 2000, every, 64, 64),
          'clothes, Lite0, 6000 of 10 kinds': Task('clothes', 'lite0', 6000, every, 64, 64)}

def examples(task, seed):
    "Labelled examples of a task, and others to test on, the same ones whatever the seed."
    if task.data == 'clothes':
        how = dict(size=task.size, channels=3 if task.is_real else 1)
        return pictures(task.classes, task.n, seed, **how),pictures(task.classes, task.n_test, 0, 't10k', **how)
    x,y = images[task.data](task.classes) if task.data in images else labelled_texts(task.data)
    items = list(zip(x, y))
    test = np.random.default_rng(0).permutation(len(x))
    train = np.random.default_rng(seed).permutation(test[:-task.n_test])
    return [items[i] for i in train[:task.n]],[items[i] for i in test[-task.n_test:]]

def loaders(train, test, bs):
    dls = DataLoaders.from_dsets(train, test, bs=bs, num_workers=0, device=default_device())
    dls.valid.bs = 200
    return dls

class SkipValidation(Callback):
    "No validation during a fit; the end is what counts."
    run_in_search = True
    def before_validate(self):
        if not self.learn.final_look: raise CancelValidException

def make(name:str, seed:int, n_groups:int=4)->Learner:
    "The frozen learner of a task; a model of pictures is in `n_groups`, stock's are 2, one of text in fastai's five."
    task = (tasks | larger)[name]
    train,test = examples(task, seed)
    dls = loaders(train, test, task.bs)
    set_seed(seed)
    common = dict(loss_func=CrossEntropyLossFlat(), metrics=error_rate)
    if task.model == 'lstm':
        net = get_text_classifier(AWD_LSTM, vocab_size, 4, seq_len=length, config={**awd_lstm_clas_config, **small_lstm(0.1)}, pad_idx=1)
        net[0].module.load_state_dict(language_model())
        learn = Learner(dls, net, splitter=awd_lstm_clas_split, cbs=rnn_cbs(), **common)
    elif task.is_real:
        learn = timm_learner(dls, f'tf_efficientnet_{task.model}', normalize=False, n_out=len(task.classes), n_groups=n_groups,
                             pretrained_cfg_overlay=dict(file=str(imagenet(int(task.model[-1])))), **common)
    else:
        learn = timm_learner(dls, **archs[task.model], **one_channel(task.data), pretrained=False, n_out=len(task.classes),
                             n_groups=n_groups, **common)
        learn.model[0].load_state_dict(body_of(task.data, task.model))
    learn.final_look = False
    learn.freeze()
    return quiet(learn)

def error(learn):
    "Share of the target's test examples that are wrong."
    learn.final_look = True
    return float(learn.validate()[1])
