"""The tasks on which suggestions are judged: small, seeded, on data of installed packages or made up here.

A task builds a Learner from a seed, which draws the weights and the order of batches; the data and its split stay the
same. The last third is `held_out`, named before any rule was tried; both parts have every kind of model."""
from functools import cache, partial

import numpy as np, torch
from fastai.text.all import *
from fastai.tabular.all import *
from fastai.vision.all import *
from sklearn import datasets
from timm.models.vision_transformer import VisionTransformer
from measure import quiet

adam,sgd,rmsprop = Adam, partial(SGD, mom=0.9), partial(RMSProp, sqr_mom=0.99)   # RMSProp of fastai without momentum

# --- data: (x, y) of the training and the validation part ---------------------------------------------------------------------
def split(x, y, valid=0.25):
    "Tensors in a fixed random order, the last part for validation."
    order = np.random.default_rng(42).permutation(len(x))
    x,y = (torch.as_tensor(o)[order] for o in (x, y))
    n = int(len(x)*(1-valid))
    return (x[:n], y[:n]), (x[n:], y[n:])

@cache
def digits(classes=range(10)):
    "scikit-learn's 8x8 handwritten digits of these classes."
    d = datasets.load_digits()
    keep = np.isin(d.target, classes)
    return split((d.images[keep, None]/8-1).astype(np.float32), d.target[keep]-min(classes))

def noisy_digits():
    "Digits, 40% of the training labels wrong."
    (x,y),valid = digits()
    rng = np.random.default_rng(1)
    wrong = torch.as_tensor(rng.random(len(y)) < 0.4)
    return (x, torch.where(wrong, torch.as_tensor(rng.integers(0, 10, len(y))), y)), valid

def digits_to_copy():
    "Digits as their own target."
    return tuple((x, x) for x,_ in digits())

@cache
def shapes(kinds=range(6), n=1800):
    "16x16 colored images of bars, crosses, disks, rings, squares and checks at random places, in noise."
    rng = np.random.default_rng(7)
    v,u = np.mgrid[:16,:16]
    def mask(kind):
        cx,cy,r = *rng.uniform(5, 10, 2), rng.uniform(3, 5)
        dx,dy = np.abs(u-cx),np.abs(v-cy)
        return [lambda: (dx < 1.2) & (dy < r), lambda: (np.minimum(dx, dy) < 1) & (np.maximum(dx, dy) < r),
                lambda: dx**2+dy**2 < r**2,
                lambda: np.abs(np.hypot(dx, dy)-r) < 1, lambda: np.maximum(dx, dy) < r,
                lambda: (np.maximum(dx, dy) < r) & ((u//2+v//2)%2==0)][kind]()
    y = rng.choice(list(kinds), n)
    x = np.stack([mask(k)[None]*rng.uniform(0.4, 1.2, (3,1,1)) for k in y]) + rng.normal(0, 0.35, (n,3,16,16))
    return split(x.astype(np.float32), y-min(kinds))

@cache
def photo_patches(n=1500):
    "12x12 patches of scikit-learn's two photographs, with noise; the clean patch is the target."
    rng = np.random.default_rng(3)
    photos = [o.astype(np.float32)/128-1 for o in datasets.load_sample_images().images]
    corners = [(photos[i%2], rng.integers(0, 415), rng.integers(0, 625)) for i in range(n)]
    clean = np.stack([p[r:r+12, c:c+12].transpose(2, 0, 1) for p,r,c in corners])
    return split(clean + rng.normal(0, 0.4, clean.shape).astype(np.float32), clean)

def table(load, scale_y=False):
    "A table of scikit-learn, its features standardized, its targets as they are unless `scale_y`."
    x,y = load(return_X_y=True)
    x = ((x-x.mean(0))/x.std(0)).astype(np.float32)
    if y.dtype.kind=='f':
        if scale_y: y = (y-y.mean())/y.std()
        y = y.astype(np.float32)[:,None]
    return split(x, y)

@cache
def majorities(n=1600, length=24):
    "Strings over five signs: is there more of the first than of the second?"
    x = np.random.default_rng(5).integers(0, 5, (n,length))
    return split(x, ((x==0).sum(1) > (x==1).sum(1)).astype(np.int64))

@cache
def descriptions():
    "The descriptions of scikit-learn's data sets, character by character."
    text = ''.join(load().DESCR for load in (datasets.load_digits, datasets.load_diabetes, datasets.load_wine,
                                             datasets.load_breast_cancer, datasets.load_iris))
    vocab = sorted(set(text))
    codes = [vocab.index(c) for c in text]
    chunks = [LMTensorText(codes[i:i+500]) for i in range(0, len(codes), 500)]
    return [c for i,c in enumerate(chunks) if i%4], chunks[::4], len(vocab)

def loaders(parts, bs):
    train,valid = (list(zip(*o)) for o in parts)
    return DataLoaders(DataLoader(train, bs=bs, shuffle=True, drop_last=True, num_workers=0),
                       DataLoader(valid, bs=256, num_workers=0))

# --- models ------------------------------------------------------------------------------------------------------------------
def cnn(n_in=1, n_out=10, bn=True):
    norm = NormType.Batch if bn else None
    layers = [ConvLayer(n_in, 16, norm_type=norm), ConvLayer(16, 32, stride=2, norm_type=norm),
              ConvLayer(32, 32, stride=2, norm_type=norm)]
    return nn.Sequential(nn.Sequential(*layers),
                         nn.Sequential(nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(32, n_out)))
def resnet(n_in=3, n_out=6):
    return nn.Sequential(nn.Sequential(ConvLayer(n_in, 16, stride=2), ResBlock(1, 16, 16),
                                       ResBlock(1, 16, 32, stride=2)),
                         nn.Sequential(nn.AdaptiveAvgPool2d(1), Flatten(), nn.Linear(32, n_out)))
def mlp(*sizes, bn=False):
    layers = [[nn.Linear(i, o), *([nn.BatchNorm1d(o)] if bn else []), nn.ReLU()] for i,o in zip(sizes, sizes[1:-1])]
    return nn.Sequential(Flatten(), *[l for ls in layers for l in ls], nn.Linear(*sizes[-2:]))
class ViT(nn.Sequential):
    "A vision transformer whose head is a module of its own."
    def __init__(self, size, n_in, n_out, patch=2):
        super().__init__(VisionTransformer(img_size=size, patch_size=patch, in_chans=n_in, num_classes=0, embed_dim=32,
                                           depth=4, num_heads=4), nn.Linear(32, n_out))
def denoiser():
    return nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(24, 3, 3, padding=1))
class LastOfGRU(Module):
    def __init__(self):
        self.emb,self.rnn,self.head = nn.Embedding(5, 16),nn.GRU(16, 48, batch_first=True),nn.Linear(48, 2)
    def forward(self, x): return self.head(self.rnn(self.emb(x))[0][:,-1])

def gaussian_nll(pred, y):
    "Negative log likelihood of a normal distribution given as mean and log of the scale, without its constant: often below zero."
    return (pred[:,1:] + 0.5*((y-pred[:,:1])*torch.exp(-pred[:,1:]))**2).mean()

# --- learners ----------------------------------------------------------------------------------------------------------------
def plain(data, model, opt=adam, bs=64, loss=None):
    parts = data()
    return quiet(Learner(loaders(parts, bs), model(), opt_func=opt,
                         loss_func=loss or (CrossEntropyLossFlat() if parts[0][1].ndim==1 else MSELossFlat())))

def language_model(opt=adam):
    train,valid,n = descriptions()
    dls = DataLoaders(*(LMDataLoader(o, bs=16, seq_len=24, shuffle=shuffle, num_workers=0)
                        for o,shuffle in [(train, True), (valid, False)]))
    config = {**awd_lstm_lm_config, 'emb_sz':32, 'n_hid':64, 'n_layers':2}
    model = get_language_model(AWD_LSTM, n, config, drop_mult=0.1)
    return quiet(LMLearner(dls, model, opt_func=opt, loss_func=CrossEntropyLossFlat()))

def tabular(load, opt=adam, bs=64):
    (x,y),(xv,yv) = table(load)
    df = pd.DataFrame(torch.cat([x, xv]).numpy(), columns=[f'x{i}' for i in range(x.shape[1])])
    df['y'] = torch.cat([y, yv]).numpy()
    dls = TabularDataLoaders.from_df(df, procs=[Normalize], cat_names=[], cont_names=list(df.columns[:-1]), y_names='y',
                                     y_block=CategoryBlock(),
                                     valid_idx=list(range(len(x), len(df))), bs=bs, num_workers=0)
    return quiet(tabular_learner(dls, layers=[64, 32], opt_func=opt))

def body_and_head(m): return [params(m[0]), params(m[1])]

def in_three(m):
    "Two halves of the body, and the head."
    layers = list((m[0].blocks if isinstance(m, ViT) else m[0]).children())
    late = {id(p) for l in layers[len(layers)//2:] for p in l.parameters()}
    return [[p for p in params(m[0]) if id(p) not in late], [p for p in params(m[0]) if id(p) in late], params(m[1])]

_sources = {}
def transfer(source, target, model, frozen=False, opt=adam, bs=32, epochs=6, lr=3e-3):
    "`model` on `target`, its body trained on `source` before: always the same body, whatever the seed; the head is new."
    head = model()
    if (source, model) not in _sources:
        # so that a run does not depend on whether the body was trained in this process
        with no_random(0, reproducible=False):
            learn = plain(source, model)
            learn.fit_one_cycle(epochs, lr)
        _sources[source, model] = learn.model[0].state_dict()
    head[0].load_state_dict(_sources[source, model])
    learn = quiet(Learner(loaders(target(), bs), head, opt_func=opt, loss_func=CrossEntropyLossFlat(),
                          splitter=body_and_head if frozen else in_three))
    if frozen: learn.freeze()
    return learn

low_digits,high_digits = partial(digits, range(5)), partial(digits, range(5, 10))
low_shapes,high_shapes = partial(shapes, range(3)), partial(shapes, range(3, 6))
digits_cnn,digits_vit,shapes_resnet = partial(cnn, n_out=5), partial(ViT, 8, 1, 5), partial(resnet, n_out=3)

# --- the tasks: how to make the learner, and for how many epochs to train ----------------------------------------------------
design = {
    'digits CNN, Adam':            (partial(plain, digits, cnn), 4),
    'digits CNN, Adam, 4x':        (partial(plain, digits, cnn), 16),
    'digits CNN without BN, SGD':  (partial(plain, digits, partial(cnn, bn=False), sgd), 5),
    'digits MLP, RMSProp':         (partial(plain, digits, partial(mlp, 64, 64, 32, 10), rmsprop), 4),
    'digits ViT, Adam':            (partial(plain, digits, partial(ViT, 8, 1, 10)), 5),
    'digits ViT, Adam, 4x':        (partial(plain, digits, partial(ViT, 8, 1, 10)), 20),
    'noisy digits CNN, SGD':       (partial(plain, noisy_digits, cnn, sgd), 4),
    'digits autoencoder, Adam':    (partial(plain, digits_to_copy,
                                            lambda: nn.Sequential(mlp(64, 48, 12, 48, 64), nn.Unflatten(1, (1, 8, 8)))),
                                            5),
    'shapes ResNet, SGD':          (partial(plain, shapes, resnet, sgd), 4),
    'diabetes MLP, raw targets':   (partial(plain, partial(table, datasets.load_diabetes),
                                            partial(mlp, 10, 32, 32, 1), bs=16), 8),
    'wine MLP, 4 batches an epoch': (partial(plain, partial(table, datasets.load_wine), partial(mlp, 13, 32, 3), bs=32),
                                     10),
    'cancer tabular, Adam':        (partial(tabular, datasets.load_breast_cancer), 6),
    'text LSTM, Adam':             (language_model, 3),
    'text LSTM, Adam, 4x':         (language_model, 12),
    'digits frozen body':          (partial(transfer, low_digits, high_digits, digits_cnn, frozen=True), 5),
    'shapes whole pretrained ResNet': (partial(transfer, low_shapes, high_shapes, shapes_resnet), 4)}

held_out = {
    'digits CNN without BN, Adam, 4x': (partial(plain, digits, partial(cnn, bn=False)), 16),
    'digits MLP, SGD':             (partial(plain, digits, partial(mlp, 64, 64, 32, 10), sgd), 4),
    'shapes ViT, Adam':            (partial(plain, shapes, partial(ViT, 16, 3, 6, 4)), 5),
    'majority GRU, RMSProp':       (partial(plain, majorities, LastOfGRU, rmsprop), 5),
    'diabetes likelihood, below zero': (partial(plain, partial(table, datasets.load_diabetes, scale_y=True),
                                                partial(mlp, 10, 32, 2), bs=16, loss=gaussian_nll), 8),
    'photos denoiser, Adam':       (partial(plain, photo_patches, denoiser), 5),
    'cancer MLP, SGD, 6 batches':  (partial(plain, partial(table, datasets.load_breast_cancer),
                                            partial(mlp, 30, 32, 2, bn=True), sgd), 8),
    'digits whole pretrained ViT': (partial(transfer, low_digits, high_digits, digits_vit), 5)}

tasks = {**design, **held_out}

pretrained = {   # in three layer groups, for the comparison of rates per group
    **{name: tasks[name] for name in ('shapes whole pretrained ResNet', 'digits whole pretrained ViT')},
    'digits whole pretrained CNN': (partial(transfer, low_digits, high_digits, digits_cnn), 5),
    'shapes whole pretrained ViT': (partial(transfer, low_shapes, high_shapes, partial(ViT, 16, 3, 3, 4)), 4)}

every = {**tasks, **pretrained}

def make(name:str, seed:int)->Learner:
    "The learner of a task."
    set_seed(seed)
    learn = every[name][0]()
    set_seed(seed)
    return learn
