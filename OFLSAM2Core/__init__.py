"""Few-shot segmentation of medical volumes with a frozen SAM2 or LiteMedSAM (OFL-SAM2).

The two calls that everything else is built on are in `OFLSAM2Core.session`. Importing this
package imports nothing heavy.
"""

__version__ = "0.1.0"
