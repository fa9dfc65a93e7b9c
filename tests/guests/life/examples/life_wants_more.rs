//! The version that asks for one capability more.

beadle_plugin::export_policy!(life_guests::Lively<5>);
