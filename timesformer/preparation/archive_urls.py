"""Where the archives of datasets are downloaded from."""

_SERRE_LAB = "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10"
_CRCV = "https://www.crcv.ucf.edu/data/UCF101"
ARCHIVE_URLS: dict[str, tuple[str, ...]] = {
    "hmdb51": (f"{_SERRE_LAB}/hmdb51_org.rar", f"{_SERRE_LAB}/test_train_splits.rar"),
    "hmdb_simp": ("https://zenodo.org/record/7718549/files/HMDB_simp.zip",),
    "ucf101": (f"{_CRCV}/UCF101.rar", f"{_CRCV}/UCF101TrainTestSplits-RecognitionTask.zip"),
}
"""Clips, and official lists if there are any, of each dataset that can be downloaded, by its name in TRAIN.DATASET."""
