//! The policy `cedar` as a component.

beadle_plugin::export_policy!(policy_cedar::Cedar);
