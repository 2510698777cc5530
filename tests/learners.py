"""The learners that keep the contract: one line here puts a learner through test_contract.py."""

import skdml


def make_learners():
    """All learners, unfitted, with the fewest steps that let them learn something."""
    return [
        skdml.MahalanobisMetric(),
        skdml.MahalanobisMetric(within_class=True),
        skdml.LMNN(n_impostors=5, tol=0.1),
        skdml.MCML(tol=0.01),
        skdml.NCA(tol=0.01),
        skdml.NCMC(),
        skdml.NCMML(),
        skdml.SDML(),
        skdml.ITML(),
        skdml.LSML(),
        skdml.RCA(),
        skdml.KISSME(),
        skdml.GMML(),
        skdml.LFDA(),
        skdml.DMLMJ(),
        skdml.ANMM(),
        skdml.LDML(),
        skdml.MMC(),
        skdml.SCML(n_basis=40, max_iter=20, tol=1e-3),
        skdml.DMLEig(),
        skdml.LEGO(),
        skdml.DeepEmbedder(max_epochs=2),
        skdml.DeepProxyEmbedder(max_epochs=2),
        skdml.DeepSiameseEmbedder(max_epochs=2),
        skdml.DeepTripletEmbedder(max_epochs=2),
    ]
