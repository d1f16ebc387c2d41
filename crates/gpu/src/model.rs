//! By which model a product is asked for (spec 01 §8).

use tarn_types::GpuModel;

/// Words that say who made it, not what it is.
const MAKERS: [&str; 2] = ["NVIDIA", "Tesla"];

/// Products whose variants are one model: the words that begin their names, and the model.
const FAMILIES: [(&[&str], &str); 6] = [
    (&["H100"], "H100"),
    (&["T4"], "T4"),
    (&["A10"], "A10"),
    (&["L40"], "L40"),
    (&["RTX", "A6000"], "A6000"),
    (&["RTX", "PRO", "6000"], "RTX-PRO-6000"),
];

/// The longest model that a product's own name makes.
const OWN_NAME_MAX: usize = 40;

/// Returns the model of a product. One that requests have no name for is asked for by its own name
/// without its maker, and with `-` for each space, such as `H200` or `GeForce-RTX-4090`.
pub(crate) fn model_of(product: &str) -> Option<GpuModel> {
    let words: Vec<&str> = product
        .split([' ', '-'])
        .filter(|word| !word.is_empty() && !MAKERS.contains(word))
        .collect();
    if words.first() == Some(&"A100") {
        // They differ in nothing but this.
        for (size, model) in [("40GB", "A100-40GB"), ("80GB", "A100-80GB")] {
            if words.contains(&size) {
                return model.parse().ok();
            }
        }
    }
    for (begin, model) in FAMILIES {
        if words.starts_with(begin) {
            return model.parse().ok();
        }
    }
    let own: String = words.join("-");
    let is_fine = |letter: &char| letter.is_ascii_alphanumeric() || "-.".contains(*letter);
    own.chars().filter(is_fine).take(OWN_NAME_MAX).collect::<String>().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_models_of_products() {
        let table = [
            ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
            ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
            ("A100-SXM4-40GB", "A100-40GB"),
            ("NVIDIA A100 80GB PCIe", "A100-80GB"),
            ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
            ("NVIDIA H100 80GB HBM3", "H100"),
            ("NVIDIA H100 PCIe", "H100"),
            ("NVIDIA H100 NVL", "H100"),
            ("Tesla T4", "T4"),
            ("NVIDIA T4", "T4"),
            ("NVIDIA RTX A6000", "A6000"),
            ("NVIDIA A10", "A10"),
            ("NVIDIA L40", "L40"),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
            // Like names are other models.
            ("NVIDIA A10G", "A10G"),
            ("NVIDIA L40S", "L40S"),
            ("NVIDIA T400", "T400"),
            ("NVIDIA H200", "H200"),
            ("NVIDIA RTX 6000 Ada Generation", "RTX-6000-Ada-Generation"),
            ("NVIDIA GeForce RTX 4090", "GeForce-RTX-4090"),
            ("NVIDIA Graphics (unknown)", "Graphics-unknown"),
        ];
        for (product, model) in table {
            assert_eq!(model_of(product).map(|model| model.to_string()).as_deref(), Some(model));
        }
        assert_eq!(model_of("NVIDIA"), None);
        assert_eq!(model_of(&"x".repeat(99)).map(|model| model.as_str().len()), Some(40));
    }
}
