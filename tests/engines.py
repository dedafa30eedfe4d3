"""A tiny learner with each engine that makes its steps: mixed precision, accumulation, optimizers, compiled models."""
import logging

from tiny import *
from fastai.callback.all import *

class FP16(CPUAutocast):
    """fp16 on the CPU, with a gradient scaler; fastai's own is hard-wired to CUDA."""
    def before_fit(self):
        super().before_fit()
        self.autocast = torch.autocast('cpu', dtype=torch.float16)
        self.learn.scaler = torch.amp.GradScaler('cpu', **self.kwargs)

class OneScaler(FP16):
    "The same scaler in all fits."
    def before_fit(self):
        old = vars(self.learn).get('scaler')
        super().before_fit()
        if old is not None: self.learn.scaler = old
    def after_fit(self): self.autocast = None

def fp16(cls=FP16):
    "A scaler that begins so high that gradients overflow and steps are left out, and grows again soon."
    return cls(amp_mode=AMPMode.FP16, init_scale=2.**24, growth_interval=2)

dynamo = torch._dynamo.config
# as older versions of torch call it
setattr(dynamo, 'recompile_limit' if hasattr(dynamo, 'recompile_limit') else 'cache_size_limit', 64)
dynamo.suppress_errors = False
logging.getLogger('torch._dynamo').setLevel(logging.ERROR)

# Compiled models

def children(m): return [params(o) for o in getattr(m, '_orig_mod', m)]
def whole_model(learn): learn.model = torch.compile(learn.model, backend='eager')
def in_place(learn): learn.model.compile(backend='eager')
def body_only(learn): learn.model[0] = torch.compile(learn.model[0], backend='eager')
def body_in_place(learn): learn.model[0].compile(backend='eager')
def late(learn):
    "As after `vision_learner`, whose splitter does not know compiled models."
    learn.splitter = lambda m: children(m) if isinstance(m, nn.Sequential) else 1/0
    learn.create_opt()
    whole_model(learn)
def prebuilt(learn):
    groups = [dict(params=params(o)) for o in learn.model]
    learn.opt_func = OptimWrapper(opt=torch.optim.SGD(groups, lr=0.1, momentum=0.9))
def wrapped(opt, **kwargs): return partial(OptimWrapper, opt=partial(opt, **kwargs))

def images(n):
    "Noise of three brightnesses, which are the classes."
    def noise(i): return torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(i))
    return [(noise(i) + i%3, torch.tensor(i%3)) for i in range(n)]

def make(cbs=None, change=noop, loss=CrossEntropyLossFlat, **kwargs):
    "A tiny learner of three layer groups: shuffled batches, BatchNorm, dropout."
    set_seed(0)
    dls = DataLoaders.from_dsets(images(48), images(24), bs=8, num_workers=0)
    model = nn.Sequential(ConvLayer(3, 4), ConvLayer(4, 8, stride=2),
                          nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 3)))
    learn = quiet(Learner(dls, model, loss_func=loss(), metrics=accuracy, splitter=children, cbs=cbs() if cbs else None,
                          path=Path(tempfile.gettempdir())/'lrx_never_written', **kwargs))
    change(learn)
    return learn

# All engines by name

steps = dict(plain=dict(), bf16=dict(cbs=bf16), fp16=dict(cbs=fp16), one_scaler=dict(cbs=partial(fp16, OneScaler)),
             accumulation=dict(cbs=partial(GradientAccumulation, 40)),
             both=dict(cbs=lambda: [GradientAccumulation(20), fp16(), GradientClip(0.1)]),
             mixup=dict(cbs=MixUp), cutmix=dict(cbs=CutMix), smoothing=dict(loss=LabelSmoothingCrossEntropyFlat),
             channels=dict(cbs=ChannelsLast))
optimizers = dict(adamw=dict(opt_func=wrapped(torch.optim.AdamW, fused=True)),
                  sgd=dict(opt_func=wrapped(torch.optim.SGD, momentum=0.9, foreach=True)),
                  fused=dict(opt_func=wrapped(torch.optim.SGD, fused=True)), prebuilt=dict(change=prebuilt),
                  summing=dict(opt_func=wrapped(Summing)),
                  lookahead=dict(opt_func=lambda ps, lr: Lookahead(SGD(ps, lr=lr, mom=0.9), k=4)),
                  ranger=dict(opt_func=ranger))
compiled = {f.__name__: dict(change=f) for f in (whole_model, in_place, body_only, body_in_place, late)}
engines = {k: partial(make, **v) for k,v in (steps|optimizers|compiled).items()}
