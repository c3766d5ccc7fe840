"""Latencies, measured side by side: sessions in processes of their own, interleaved rounds."""
