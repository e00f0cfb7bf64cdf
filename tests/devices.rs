//! Steering on a device of this machine, which the environment variable CANDOR_TEST_DEVICE names:
//! `CUDA0`, `Metal`, `Vulkan0` (`candor devices` lists them). `scripts/test-vulkan.sh` sets it.

mod common;

use common::place::Place;

/// All layers on the device; the last one alone.
fn for_every_place(check: impl Fn(&Place)) {
    let Some(device) = std::env::var("CANDOR_TEST_DEVICE").ok().filter(|name| !name.is_empty())
    else {
        common::skipped("device", "CANDOR_TEST_DEVICE names no device");
        return;
    };
    check(&Place::from_layer(0, "all layers", &device, &[]));
    check(&Place::from_layer(2, "one layer", &device, &[]));
}

#[test]
fn off_is_off() {
    for_every_place(Place::off_is_off);
}

#[test]
fn both_paths_are_one_function() {
    for_every_place(Place::both_paths_are_one_function);
}

#[test]
fn steers_as_the_processor_does() {
    for_every_place(Place::steers_as_the_processor_does);
}

#[test]
fn every_sequence_gets_its_own_row() {
    for_every_place(Place::every_sequence_gets_its_own_row);
}

#[test]
fn a_change_between_two_decodes_takes_effect() {
    for_every_place(Place::a_change_between_two_decodes_takes_effect);
}

#[test]
fn small_ubatches_steer_the_same_tokens() {
    for_every_place(Place::small_ubatches_steer_the_same_tokens);
}
