"""timm's architectures for tests and benchmarks: a small one of each family, what a forward pass uses, what is wrong
with a grouping."""
import torch, timm
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fastai.vision.learner import create_timm_model
from fastai_lrx.spread.backbones import TimmBody
from fastai_lrx.spread.layers import model_layers, timm_split

# the smallest of each of timm's modules (as of 1.0.31; an older one lacks a few), with the image size where 32 pixels
# are too few
small_ones = """
beit_base_patch16_224 halonet_h1:256 mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 test_convnext
cpubone_nano crossvit_tiny_240:240 csatv2:64 cs3darknet_focus_s cspnext_tiny davit_tiny deepseek_vit_412m:224
deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1:224 efficientformerv2_s0
mobilenetv2_050 efficientvim_m1 efficientvit_b0 efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8
focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny
hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2:96 inception_v3:96 inception_v4:96 lcnetv2_small
levit_128s lowformer_b0 test_mambaout maxvit_pico_rw_256 poolformerv2_s12 gmlp_ti16_224 lcnet_035 mobilenetv5_base
mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small test_nfnet pit_ti_224
pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d resnet10t
resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224
tresnet_m twins_svt_small vgg11 visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 test_vit_relpos
samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p
xcit_nano_12_p8_224
"""
small = {arch: int(size or 32) for arch,_,size in (o.partition(':') for o in small_ones.split()) if timm.is_model(arch)}
if torch.__version__ < '2.5':                # these use functions that have no meta version there
    for arch in ('efficientvit_b0', 'regnetx_002'): small.pop(arch)
with torch.device('meta'):                   # without its classifier, an older timm's has no features either
    if isinstance(timm.create_model('inception_next_atto', num_classes=0).get_classifier(), nn.Linear):
        small.pop('inception_next_atto')
ways = [(n, by, coarse) for coarse in (False, True) for n in (None, 2, 3, 4, 5, 8) for by in ('depth', 'params')]

class Uses(TorchFunctionMode):
    "Notes the order in which parameters take part in torch's functions."
    def __init__(self, params): self.ids,self.order = {id(p) for p in params},{}
    def __torch_function__(self, func, types, args=(), kwargs=None):
        for t in tree_leaves((args, kwargs)):
            if id(t) in self.ids: self.order.setdefault(id(t), len(self.order))
        return func(*args, **(kwargs or {}))

def on_meta(arch):
    """What `timm_learner` builds, with a simpler head and without memory.

    And the order in which a forward pass uses its parameters."""
    with torch.device('meta'), torch.no_grad():
        body = TimmBody(timm.create_model(arch, num_classes=0)).eval()
        with Uses(body.parameters()) as uses:
            features = body(torch.empty(2, *body.model.pretrained_cfg['input_size'])).shape
        assert len(features) == 2, f'features of {arch}: {features}'
        model = nn.Sequential(body, nn.Linear(features[1], 2))
    return model,uses.order | {id(p): len(uses.order)+i for i,p in enumerate(model[1].parameters())}

def stock_on_meta(arch):
    """What is wrong with the model that stock's `vision_learner` builds.

    The error of a forward pass if there is one, else the share of weights that it does without."""
    with torch.device('meta'), torch.no_grad():
        try:
            model = create_timm_model(arch, 2, pretrained=False)[0].eval()
            with Uses(model.parameters()) as uses: model(torch.empty(2, *model[0].model.pretrained_cfg['input_size']))
        except Exception as e: return dict(error=f'{type(e).__name__}: {e}'.splitlines()[0])
    numbers = {id(p): p.numel() for p in model.parameters()}
    return dict(unused=sum(n for i,n in numbers.items() if i not in uses.order)/sum(numbers.values()))

def faults(model, order, n, by, coarse):
    """What is wrong with the groups of a model: a list of words, empty where all is well.

    None where so many groups are refused."""
    layers,head = model_layers(model, coarse)
    if n is not None and n > len(layers)+1:
        try: timm_split(model, n, by, coarse)
        except ValueError: return None
        return ['too many not refused']
    groups = timm_split(model, n, by, coarse)
    names = {id(p): name for name,p in model.named_parameters()}
    first = [min((order[id(p)] for p in g if id(p) in order), default=None) for g in groups]
    known = [f for f in first if f is not None]
    in_head = {name for name in names.values() if name.startswith('1.')}
    return [word for word,wrong in {
        'number': n is not None and len(groups) != n,
        'not every parameter once': sorted(id(p) for g in groups for p in g) != sorted(names),
        'empty': not all(groups),
        'unused': len(known) < len(first),
        'head not last': {names[id(p)] for p in groups[-1]} != in_head,
        'order': known != sorted(known)}.items() if wrong]
