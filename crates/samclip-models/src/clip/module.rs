//! [`Clip`] as a burn module.
//!
//! Written out because the reference keeps the text tower's parameters at the top level
//! (`transformer.resblocks.0…`, not `text.transformer…`): the field `text` adds no path segment.

use burn::module::{Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

use super::Clip;

const CONTAINER: &str = "Struct:Clip";

impl Module for Clip {
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module("visual", CONTAINER);
        self.visual.visit(visitor);
        visitor.exit_module("visual", CONTAINER);
        self.text.visit(visitor);
        visitor.enter_module("logit_scale", CONTAINER);
        self.logit_scale.visit(visitor);
        visitor.exit_module("logit_scale", CONTAINER);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        mapper.enter_module("visual", CONTAINER);
        let visual = self.visual.map(mapper);
        mapper.exit_module("visual", CONTAINER);
        let text = self.text.map(mapper);
        mapper.enter_module("logit_scale", CONTAINER);
        let logit_scale = Module::map(self.logit_scale, mapper);
        mapper.exit_module("logit_scale", CONTAINER);
        Self { visual, text, logit_scale }
    }

    fn collect_devices(&self, devices: Devices) -> Devices {
        let devices = self.visual.collect_devices(devices);
        let devices = self.text.collect_devices(devices);
        self.logit_scale.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        let Self { visual, text, logit_scale } = self;
        Self { visual: visual.fork(device), text: text.fork(device), logit_scale: logit_scale.fork(device) }
    }

    fn to_device(self, device: &Device) -> Self {
        let Self { visual, text, logit_scale } = self;
        let logit_scale = Module::to_device(logit_scale, device);
        Self { visual: visual.to_device(device), text: text.to_device(device), logit_scale }
    }

    fn train(self) -> Self {
        let Self { visual, text, logit_scale } = self;
        Self { visual: visual.train(), text: text.train(), logit_scale: logit_scale.train() }
    }

    fn valid(&self) -> Self {
        Self { visual: self.visual.valid(), text: self.text.valid(), logit_scale: self.logit_scale.valid() }
    }

    fn materialize(self) -> Self {
        let Self { visual, text, logit_scale } = self;
        Self { visual: visual.materialize(), text: text.materialize(), logit_scale: logit_scale.materialize() }
    }
}

impl ModuleDisplayDefault for Clip {
    fn content(&self, content: Content) -> Option<Content> {
        content
            .set_top_level_type("Clip")
            .add("visual", &self.visual)
            .add("text", &self.text)
            .add("logit_scale", &self.logit_scale)
            .optional()
    }

    fn num_params(&self) -> usize {
        Module::num_params(self)
    }
}

impl ModuleDisplay for Clip {}
