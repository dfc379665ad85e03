//! Probing heads against torchvision and PyTorch (fixtures/probe/generate.py), in inference and in training form.

mod common;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use common::{Fixture, RING_1, close, values};
use samclip_models::init::Init;
use samclip_models::probe::{ProbeHead, ProbeHeadConfig, TrainPass, is_statistic, update_running, upsample_aligned};
use samclip_models::state::{self, named_shapes, named_values};

const OUT: [usize; 2] = [14, 27];

fn cases() -> [(&'static str, ProbeHeadConfig); 2] {
    let deeplab = ProbeHeadConfig::DeeplabV3 { channels: 8, rates: [2, 3, 8], dropout: 0.3 };
    let psp = ProbeHeadConfig::PspNet { channels: 8, pool_channels: 6, pools: vec![1, 2, 3, 6], dropout: 0.3 };
    [("deeplab_v3", deeplab), ("psp_net", psp)]
}

fn head(fixture: &Fixture, kind: &str, config: &ProbeHeadConfig, device: &Device) -> ProbeHead {
    let head = config.init(12, 5, &mut Init::zeros(device));
    state::load(head, &fixture.below(&format!("{kind}.weights."))).unwrap()
}

#[test]
fn inference_is_torchvisions() {
    let fixture = Fixture::open("probe/heads");
    for (kind, config) in cases() {
        let head = head(&fixture, kind, &config, &fixture.device);
        let logits = head.forward(fixture.get(&format!("{kind}.x")));
        fixture.check(&format!("{kind}.logits"), logits.clone());
        fixture.check(&format!("{kind}.resized"), upsample_aligned(logits, OUT));
    }
}

/// What the training form leaves: logits, statistics, the gradient of every tensor.
#[test]
fn training_form_gradients_and_statistics_are_torchs() {
    let fixture = Fixture::open("probe/heads");
    let device = Device::flex().autodiff();
    for (kind, config) in cases() {
        let head = head(&fixture, kind, &config, &device);
        let get = |name: &str| Tensor::<4>::from_data(fixture.get::<4>(&format!("{kind}.{name}")).into_data(), &device);
        let mut pass = TrainPass { keep: Some(get("keep")), statistics: Vec::new() };
        let logits = head.forward_train(get("x"), &mut pass);
        close(&format!("{kind}: training logits"), logits.clone(), get("train.logits"), RING_1);
        let mut grads = (upsample_aligned(logits, OUT) * get("g")).sum().backward();
        let mut visitor = Gradients { grads: &mut grads, found: Vec::new() };
        head.visit(&mut visitor);
        let mut statistics = pass.statistics.iter().flat_map(|(mean, var)| [mean, var]);
        for ((name, _, value), grad) in named_values(&head).into_iter().zip(visitor.found) {
            let mut value = value;
            let (expected, found) = match is_statistic(&name) {
                true => {
                    update_running(&mut value, statistics.next().unwrap());
                    (format!("{kind}.after.{name}"), value)
                }
                false => (format!("{kind}.grad.{name}"), grad.unwrap_or_else(|| panic!("{name}: no gradient"))),
            };
            let wanted = fixture.state.get(&expected).unwrap_or_else(|| panic!("{expected}")).to_f32();
            assert_eq!(found.len(), wanted.len(), "{name}");
            let worst = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let size = wanted.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            println!("{expected}: max |Δ| {worst:.1e} of {size:.1e}");
            assert!(worst <= 1e-5 && size > 1e-4, "{expected}: {worst:e} of {size:e}");
        }
        assert!(statistics.next().is_none());
    }
}

struct Gradients<'a> {
    grads: &'a mut burn::tensor::Gradients,
    found: Vec<Option<Vec<f32>>>,
}

impl burn::module::ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
        self.found.push(param.val().grad_remove(self.grads).map(values));
    }
}

#[test]
fn sizes_of_the_papers_heads() {
    // 768 channels, 21 classes (spec 5.7): ASPP 1x1, three 3x3, pool, project; PPM 4 x 192, 3x3 over 1536
    let count = |config: &ProbeHeadConfig| -> usize {
        let head = config.init(768, 21, &mut Init::zeros(&Device::default()));
        named_shapes(&head).iter().filter(|(name, _)| !is_statistic(name)).map(|(_, s)| s.iter().product::<usize>()).sum()
    };
    assert_eq!(count(&ProbeHeadConfig::Linear {}), 768 * 21 + 21);
    let deeplab = ProbeHeadConfig::DeeplabV3 { channels: 256, rates: [6, 12, 18], dropout: 0.1 };
    assert_eq!(count(&deeplab), 2 * 768 * 256 + 3 * 9 * 768 * 256 + 5 * 256 * 256 + 6 * 512 + 256 * 21 + 21);
    let psp = ProbeHeadConfig::PspNet { channels: 512, pool_channels: 192, pools: vec![1, 2, 3, 6], dropout: 0.1 };
    assert_eq!(count(&psp), 4 * (768 * 192 + 384) + 9 * 1536 * 512 + 1024 + 512 * 21 + 21);
    assert!(ProbeHeadConfig::DeeplabV3 { channels: 0, rates: [1, 2, 3], dropout: 0.1 }.check().is_err());
}
