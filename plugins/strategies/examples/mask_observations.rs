//! The strategy `mask-observations` as a component.

beadle_plugin::export_strategy!(strategies::MaskObservations);
