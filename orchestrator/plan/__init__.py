"""Which cells run on which device, and in what order. PURE"""
