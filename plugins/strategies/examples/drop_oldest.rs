//! The strategy `drop-oldest` as a component.

beadle_plugin::export_strategy!(strategies::DropOldest);
