//! Leases that keep two materialisations of one view apart: `claims/<view>.json` under the root.
