"""Every public function and method with good values for each of its arguments, for `odd_values.throw`."""
from odd_values import *
from fastai_lrx.all import *
from fastai_lrx.core import args, storage
from contextlib import ExitStack, contextmanager
from unittest.mock import patch as patched
from fastai_lrx.find import curves, lr_search, range_tests, sweep, watched
from fastai_lrx.find.short_fit import ShortFit
from fastai_lrx.vary import schedules

def keeps_promises(s, n=61):
    "Whether a schedule of `n` steps is finite, within its bounds, and its cycles ascend and end with it."
    ends,values = s.cycle_ends(n),s.at(np.arange(n), n)
    assert ends.dtype.kind=='i' and ends[0] >= 1 and ends[-1]==n and (np.diff(ends) >= 1).all(), ends
    assert values.dtype==np.float64 and len(values)==n and np.isfinite(values).all()
    growth = max(1, getattr(s, 'cycle_decay', 1)**(len(ends)-1))
    low,high = np.minimum(s.lr_min, s.lr_max),np.maximum(s.lr_min, s.lr_max)*growth
    slack = 1e-9*np.maximum(abs(low), abs(high))
    assert (values >= low-slack).all() and (values <= high+slack).all()
    assert s==s and hash(s)==hash(s) and s.at(0, n) is not None and repr(s)

def schedule_table():
    "Schedules, and what reads their arguments."
    cos,groups = CosineRestarts(3, 1e-2),CosineRestarts(2, [.1, .2], warmup=.1)
    joined = join([Flat(1e-2), CosineRestarts(3, 1e-2)], [1, 2])
    def is_rates(r): assert np.isfinite(r).all() and isinstance(r, (float,tuple))
    def is_int(r): assert type(r) is int and r >= 1
    def is_float(r): assert type(r) is float and math.isfinite(r)
    res = {'as_rates': entry(lambda x: args.as_rates(x, 'x'), is_rates, x=.1),
           'number': entry(lambda x: args.as_float(x, 'x'), is_float, x=.1),
           'whole': entry(lambda n: args.as_int(n, 'n'), is_int, n=3),
           'bounds': entry(args.as_rate_bounds, lr_min=.1, lr_max=.2),
           'Flat': entry(Flat, keeps_promises, lr=.1),
           'CosineRestarts': entry(CosineRestarts, keeps_promises, n_cycles=2, lr_max=.1, lr_min=0., cycle_mult=2.,
                                   cycle_decay=1., warmup=0.),
           'Triangular': entry(Triangular, keeps_promises, n_cycles=2, lr_max=.2, lr_min=.1, mode='exp_range',
                               gamma=.99, up_frac=.5, also=dict(n_cycles='n_steps')),
           'SlantedTriangular': entry(SlantedTriangular, keeps_promises, lr_max=.2, cut_frac=.1, ratio=32),
           'OneCycle': entry(OneCycle, keeps_promises, lr_max=.2, div=25., div_final=1e5, pct_start=.25),
           'Linear': entry(Linear, keeps_promises, lr_max=.2, lr_min=.1, warmup=.1),
           'Polynomial': entry(Polynomial, keeps_promises, lr_max=.2, power=2., lr_min=.1, warmup=.1),
           'Steps': entry(Steps, keeps_promises, lr_max=.2, milestones=(.5, .75), gamma=.1),
           'InverseSqrt': entry(InverseSqrt, keeps_promises, lr_max=.2, warmup=.1),
           'WarmupStableDecay': entry(WarmupStableDecay, keeps_promises, lr_max=.2, warmup=.1, cooldown=.2,
                                      shape='1-sqrt', lr_min=.1),
           'Mirrored': entry(schedules.Mirrored, keeps_promises, schedule=cos, at_min=.95, at_max=.85),
           'join': entry(join, keeps_promises, schedules=[Flat(1e-2), Flat([1e-2, 1e-3])], lengths=[1, 2]),
           'Joined': entry(schedules.Joined, keeps_promises, schedules=(cos, cos), lengths=(3, 3)),
           'Schedule.mirrored': entry(cos.mirrored, keeps_promises, at_min=.95, at_max=.85),
           'Scheduled': entry(lambda lr: Scheduled(lr=lr), lr=cos)}
    for s in (Flat(.1), groups, Triangular(3, .1, .01), SlantedTriangular(.1), OneCycle(.1),
              Linear(.1), Polynomial(.1), Steps(.1), InverseSqrt(.1), WarmupStableDecay(.1), cos.mirrored(.9, .8), joined):
        name = type(s).__name__
        res |= {f'{name}.at': entry(s.at, lambda r: test_eq(np.isfinite(r).all(), True), step=3, n_steps=60),
                f'{name}.cycle_ends': entry(s.cycle_ends, n_steps=60)}
    return res | {'Schedule.plot': entry(cos.plot, n_steps=60, free='ax label')}

def curve_table():
    "Curves of sweeps, and the rules that read them."
    lrs,noise = np.geomspace(1e-7, 10, 60),np.random.RandomState(0).normal(size=60)*.01
    losses = np.r_[np.full(20, 2.), np.linspace(2, .5, 25), np.linspace(.5, 9, 15)] + noise
    curve = SweepCurve(lrs, losses)
    def within(r): assert np.isnan(r) or lrs[0] <= r <= lrs[-1], r
    def readable(c):
        assert curves.diagnose(c) in curves.reasons and np.isfinite(c.error) and np.isfinite(c.start)
        assert len(curves.refined_span(c))==2
        for f in (lowest, halfway, by_drop):
            test_eq(np.isnan(f(c)) or c.lrs.min()*(1-1e-9) <= f(c) <= c.lrs.max()*(1+1e-9), True)
    reads = {f.__name__: entry(f, curve=curve) for f in (lowest, halfway, suggested, watched_lowest, curves.diagnose, curves.refined_span)}
    return reads | {'SweepCurve': entry(SweepCurve, readable, lrs=lrs, losses=losses, smooth_losses=losses, num_it=60,
                                        sweep='exp', free='stop_div bad_batch watched', also=dict(lrs='losses')),
                    'SweepCurve.smooth': entry(curve.smooth, lambda r: test_eq(np.isfinite(r).all(), True), sigma=2.),
                    'SweepCurve.loss_at': entry(curve.loss_at, lambda r: test_eq(math.isfinite(r), True), lr=1e-3),
                    'by_drop': entry(by_drop, within, curve=curve, share=.9),
                    'valley': entry(valley, lambda r: within(r[0]), lrs=lrs, losses=losses, free='num_it'),
                    'gaussian_smooth': entry(curves.gaussian_smooth, values=losses, sigma=2.)}

def callback_table():
    "Callbacks, when they are made."
    return {'Snapshots': entry(Snapshots, folder='s', every=1, keep=2, best=False),
            'Average': entry(Average, kind='tail', window=.2, every='epoch', validate=True, better=False, device=None),
            'Resume': entry(Resume, name='r', every=1, keep_last=1, restart=False),
            'folder_of': entry(lambda name: storage.folder_of(name, 'name'), name='x'),
            'GradualUnfreezing': entry(GradualUnfreezing, every=1, start=1, at_once=False),
            'Recover': entry(Recover, factor=.5, max_times=3, spike=10., every=20, steps=30, device='cpu'),
            'UntilOverfit': entry(UntilOverfit, patience=1), 'NormFreeze': entry(lambda: NormFreeze()),
            'NormEval': entry(lambda: NormEval())}

def group_table(learn):
    "What makes layer groups, and rates for them."
    big = nn.Sequential(nn.Sequential(*(nn.Linear(4, 4) for _ in range(6))), nn.Linear(4, 2))
    def all_there(groups): test_eq(sum(map(len, groups)), 14)
    def rates(r): assert np.isfinite(r).all() and (r >= 0).all()
    return {'timm_split': entry(timm_split, all_there, model=big, n_groups=3, by='depth', coarse=False, matcher=None,
                                head=None, also=dict(matcher='n_groups')),
            'discriminative_lrs': entry(discriminative_lrs, rates, n_groups=3, lr_max=.1, div=2.6),
            'Learner.regroup': entry(lambda **kwargs: learn().regroup(**kwargs), given=Learner.regroup, n_groups=2,
                                     by='depth', coarse=False, matcher=None, also=dict(matcher='n_groups')),
            'Learner.freeze_to': entry(lambda **kwargs: learn().freeze_to(**kwargs), given=Learner.freeze_to, n=1)}

def fit_table(learn, begun):
    "Fit methods of a learner whose fits end before the first epoch; `begun` has their `Scheduled`."
    def check(_):
        assert begun
        for cb in begun:
            for k,values in cb.values.items():
                assert np.isfinite(values).all() and (values >= 0).all() and len(values)==cb.n_steps, k
                assert values.ndim==1 or values.shape[1]==len(learn().opt.param_lists), k
            assert max(cb.ends)==cb.n_steps and min(cb.ends) >= 1
            assert all(type(h['wd']) is float and h['wd'] >= 0 for h in learn().opt.hypers)
    def method(name):
        def call(**kwargs):
            if kwargs.get('base_lr', 0) is None: kwargs.pop('base_lr')      # asks `lr_find`, which would need a fit
            begun.clear()
            getattr(learn(), name)(**kwargs)
        return call
    common = dict(cbs=None, reset_opt=False, wd=None, start_epoch=0, moms=None)
    flags,also = 'reset_opt',dict(cycle_mult='cycle_len', warmup='cycle_len')
    makes = dict(fit_sgdr=dict(n_cycles=2, cycle_len=1, lr_max=1e-2, cycle_mult=2, lr_min=0., cycle_decay=1.,
                               warmup=0.),
                 fit_triangular=dict(n_cycles=2, cycle_len=1, lr_max=1e-2, lr_min=None, mode='triangular', gamma=.99,
                                     up_frac=.5),
                 fit_stlr=dict(n_epoch=2, lr_max=1e-2, cut_frac=.1, ratio=32),
                 fit_wsd=dict(n_epoch=2, lr_max=1e-2, cooldown=.2, warmup=.05, shape='1-sqrt', lr_min=0.),
                 fine_tune_discriminative=dict(epochs=2, base_lr=1e-2, freeze_epochs=1, head_lr=None, layer_decay=None,
                                               div=None, unfreeze='gradual',
                                               schedule='one_cycle', n_groups=None, precompute=False, train_bn=True,
                                               norm_eval=False))
    anytime = entry(method('fit_anytime'), check, given=Learner.fit_anytime, flags=flags, n_epoch=2, lr_max=1e-2, warmup=.5,
                    **{k: common[k] for k in ('cbs', 'reset_opt', 'wd')})
    return {f'Learner.{name}': entry(method(name), check, given=getattr(Learner, name), flags=flags, also=also, **valid,
                                     **common) for name,valid in makes.items()} | {'Learner.fit_anytime': anytime}

def sweep_table(learn):
    "Sweeps, which `made_up` runs."
    def positive(res): assert res is None or all(np.isnan(float(lr)) or float(lr) > 0 for lr in res)
    flags = 'stop_div show_plot'
    find = dict(start_lr=1e-7, end_lr=10, num_it=30, stop_div=True, show_plot=False, extend=False, device=None)
    return {'Learner.lr_find': entry(learn.lr_find, positive, given=Learner.lr_find, flags=flags,
                                     suggest_funcs=('lr', 'valley'), sweep='exp', repeats=1, watch=True, **find,
                                     also=dict(suggest_funcs='Callback Linear')),
            'Learner.lr_range_test': entry(learn.lr_range_test, positive, given=Learner.lr_range_test, flags=flags,
                                           metric=mse, valid_batches=2, sweep='lin',
                                           **{k: v for k,v in find.items() if k!='extend'}),
            'Learner.lr_find_groups': entry(learn.lr_find_groups, positive, given=Learner.lr_find_groups,
                                            flags=flags, **find),
            'Learner.lr_search': entry(learn.lr_search, positive, given=Learner.lr_search, flags='show_plot',
                                       fit=lambda l, lr: l.fit(1, lr), budget=1., start_lr=1e-2, show_plot=False,
                                       device=None, also=dict(fit='Callback lambda'))}

def made_up_fit(learn, fit, lr, share, device=None):
    "In place of `short_fit`: a loss that is lowest at 1e-2, without any training; rate and share must make sense."
    assert 0 < lr < np.inf and 0 < share <= 1
    return ShortFit(1 + np.log10(lr/1e-2)**2, share, 1, [])

def made_up(learn, sweep, seed=None, device=None):
    "In place of `run_sweep`: a loss that falls and then blows up, without any training; the rates must make sense."
    rates = np.array(sweep.rates)
    assert rates.ndim==2 and len(rates) < 10**6 and np.isfinite(rates).all() and (rates >= 0).all()
    at,noise = np.linspace(0, 1, len(rates)),np.random.RandomState(0).randn(len(rates))
    losses = 2 - 1.5*np.clip((at-.3)/.4, 0, 1) + np.where(at > .85, (at-.85)*60, 0) + .01*noise
    sweep.lrs,sweep.losses = rates[:,-1].tolist(),losses.tolist()
    sweep.smooth_losses,sweep.hps = [tensor(o) for o in sweep.losses],dict(lr=sweep.lrs)
    sweep.values = sweep.valid_losses = sweep.losses
    return sweep

@contextmanager
def nothing_trained():
    "Sweeps and short fits are made up within the block."
    with ExitStack() as stack:
        for module in (sweep, watched, range_tests): stack.enter_context(patched.object(module, 'run_sweep', made_up))
        stack.enter_context(patched.object(lr_search, 'short_fit', made_up_fit))
        stack.enter_context(patched.object(lr_search, 'loss_before', lambda *args: 2.))
        yield

def around_table(learn):
    "What is done around fits."
    def entered(cm):
        with cm: pass
    def seed_(seed):
        state = LearnerState(learn)
        state.reseed(seed)
        state.restore()
    return {'Learner.precomputed': entry(lambda **kwargs: entered(learn.precomputed(**kwargs)),
                                         given=Learner.precomputed, n_aug=0, cache=None, max_memory=1., device=None),
            'Learner.preserved': entry(lambda **kwargs: entered(learn.preserved(**kwargs)), given=Learner.preserved,
                                       device=None),
            'Learner.dry_run': entry(lambda: entered(learn.dry_run()), given=Learner.dry_run),
            'LearnerState': entry(lambda device: LearnerState(learn, device), device=None),
            'LearnerState.reseed': entry(seed_, seed=3), 'LearnerState.restore': entry(LearnerState(learn).restore),
            'Learner.compare': entry(learn.compare, given=Learner.compare, candidates={'a': noop}, seeds=1,
                                     metrics=None, monitor='valid_loss', comp=None, target=None, keep=None,
                                     also=dict(metrics='lambda'))}

def ensemble_table(learn):
    "An ensemble of a learner that has been trained; its `folder` is the present one."
    mem,disk = Snapshots(),Snapshots('snaps')
    learn.fit_sgdr(2, 1, 1e-2, cycle_mult=1, cbs=[mem, disk])
    ens,nonzero = SnapshotEnsemble(learn, mem),lambda r: test_eq(len(r) > 0, True)
    loaders = dict(ds_idx=1, dl=None)
    with learn.dry_run() as plan: learn.fit_sgdr(2, 1, 1e-2)
    learn.fit_anytime(1, 1e-2).save('trunk')
    comparison = learn.compare({'a': lambda l: l.fit(1, 1e-2)}, seeds=1)
    learn.fit_sgdr(1, 1, 1e-2)
    return {'SnapshotEnsemble': entry(SnapshotEnsemble, nonzero, learn=learn, snaps=mem, last=1, free='act'),
            'SnapshotEnsemble.load': entry(SnapshotEnsemble.load, nonzero, folder='snaps', learn=learn,
                                           last=1, free='act'),
            'SnapshotEnsemble.get_preds': entry(ens.get_preds, free='with_input with_decoded with_loss act kwargs',
                                                **loaders),
            'SnapshotEnsemble.validate': entry(ens.validate, cbs=None, **loaders),
            'SnapshotEnsemble.tta': entry(ens.tta, free='kwargs', **loaders),
            'SnapshotEnsemble.curve': entry(ens.curve, **loaders),
            'SnapshotEnsemble.plot': entry(ens.plot, metric=None, free='ax', **loaders),
            'SnapshotEnsemble.diversity': entry(ens.diversity, **loaders),
            'SnapshotEnsemble.to_model': entry(ens.to_model, dl=None),
            'Learner.load_anytime': entry(learn.load_anytime, name='trunk'),
            'Comparison.plot': entry(comparison.plot, name=None, free='ax'),
            'Plan.summary': entry(plan.summary, batch_seconds=None),
            'Recorder.plot_sched': entry(learn.recorder.plot_sched, keys=None, figsize=None)}

def timm_table(dls):
    "The learner of a timm network."
    valid = dict(dls=dls, arch='test_resnet', n_groups=3, n_out=3, n_in=3, img_size=32, train_bn=True, cbs=None)
    fastais = 'metrics loss_func opt_func lr path model_dir wd wd_bn_bias moms splitter normalize y_range'
    heads = 'pretrained custom_head init lin_ftrs ps first_bn bn_final lin_first kwargs'
    def made(**kwargs):
        # a model that is made draws random weights
        with torch.random.fork_rng(): return timm_learner(pretrained=False, loss_func=CrossEntropyLossFlat(), **kwargs)
    return {'timm_learner': entry(made, given=timm_learner, free=f'{fastais} {heads}', **valid)}

def without_epochs():
    "A learner whose fits end before their first epoch, and a list of the schedules they were given."
    learn,begun = learner('tensors'),[]
    learn.create_opt()
    learn.n_epoch = 1
    learn._do_fit = lambda: begun.append(first(cb for cb in learn.cbs if isinstance(cb, Scheduled)))
    return learn,begun
