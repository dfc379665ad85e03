//! Runs a recipe without the `samclip` binary: `train RECIPE OUT DATA [--smoke] [--changed]`.

use samclip_train::run_log::{Line, curve};
use samclip_train::{Observer, RunOptions};
use std::sync::atomic::AtomicBool;

#[derive(Default)]
struct Print(Vec<Line>);

impl Observer for Print {
    fn note(&mut self, text: &str) {
        println!("{text}");
    }

    fn log(&mut self, line: &Line) {
        print!(
            "{}/{} loss {:.4} lr {:.2e} norm {:.2} {:.2} img/s",
            line.step, line.steps, line.loss, line.lr, line.grad_norm, line.images_per_second
        );
        for (name, value) in &line.losses {
            print!(" {}={value:.3}", name.rsplit_once('/').map_or(name.as_str(), |(_, n)| n));
        }
        println!();
        self.0.push(line.clone());
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [recipe, out, data, ..] = arguments.as_slice() else {
        println!("usage: train RECIPE OUT DATA [--smoke] [--changed]");
        return;
    };
    let flag = |name: &str| arguments.iter().any(|a| a == name);
    let options = RunOptions {
        smoke: flag("--smoke"),
        resume: true,
        allow_changed_recipe: flag("--changed"),
        ..RunOptions::new(data, out)
    };
    let mut print = Print::default();
    match samclip_train::run(recipe.as_ref(), &options, &mut print, &AtomicBool::new(false)) {
        Ok(outcome) => println!("{outcome:?}\n{}", curve(&print.0, 72, 12)),
        Err(error) => println!("error: {error} {:?}", error.hint()),
    }
}
